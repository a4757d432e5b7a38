import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { serveDaemon } from '../../../src/daemon/daemon.js'
import { codec, defineSection, join, type Member } from '../../../src/index.js'
import type { JoinOptions } from '../../../src/member/options/options.js'
import { until } from '../../processes/until.js'

const prices = defineSection<number>({ version: 1, codec: codec.json() })

/** A daemon, and how to join it. */
async function daemon(): Promise<(options: Partial<JoinOptions> & { service: string }) => Promise<Member>> {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-follow-'))
  const control = joinPath(folder, 'control.sock')
  const holder = await serveDaemon({ control })
  const members: Member[] = []
  onTestFinished(async () => {
    for (const member of members) await member.close({ timeout: 0 })
    await holder.close()
    rmSync(folder, { recursive: true, force: true })
  })
  return async options => {
    const member = await join({ control, hosting: 'daemon', ...options })
    members.push(member)
    return member
  }
}

describe('a member that follows', () => {
  it('waits until somebody serves what it follows, and not longer than it may', async () => {
    const joined = await daemon()
    const late = joined({ service: 'shop.1', follow: 'shop', timeout: 300 })
    await expect(late).rejects.toMatchObject({ code: 'ERR_FDB_DEADLINE', retryable: true })
    const waiting = joined({ service: 'shop.1', follow: 'shop' })
    const shop = await joined({ service: 'shop' })
    await shop.section('prices', prices).put('apple', 50)
    await shop.ready()
    const member = await waiting
    expect(member).toMatchObject({ follows: 'shop', first: false })
    expect(shop).toMatchObject({ follows: null, first: true })
    expect(member.section('prices', prices).get('apple')).toBe(50)
    const { sequence, digest } = shop.status().state
    expect(member.status()).toMatchObject({ service: 'shop.1', follows: 'shop', state: { sequence, digest } })
  })

  it('changes nothing before it serves, and is told so where it waits for that', async () => {
    const joined = await daemon()
    const shop = await joined({ service: 'shop' })
    await shop.ready()
    const member = await joined({ service: 'shop.1', follow: 'shop' })
    const section = member.section('prices', prices)
    await expect(section.put('apple', 1)).rejects.toMatchObject({ code: 'ERR_FDB_NOT_READY' })
    expect(shop.section('prices', prices).size).toBe(0)
    await shop.section('prices', prices).put('pear', 2)
    expect(section.get('pear')).toBe(2)
    await member.ready()
    await until('what waited is made', () => section.get('apple') === 1)
    expect(shop.section('prices', prices).get('apple')).toBe(1)
    // The writer keeps no file.
    await expect(section.put('apple', 2, { durable: true })).rejects.toMatchObject({ code: 'ERR_FDB_OPTION' })
  })

  it('meets a refusal before it is ready where it may not read the state', async () => {
    const joined = await daemon()
    const shop = await joined({ service: 'shop' })
    const newer = defineSection<number>({ version: 3, minReader: 2, codec: codec.json() })
    await shop.section('prices', newer).put('apple', 50)
    await shop.ready()
    const member = await joined({ service: 'shop.1', follow: 'shop' })
    expect(() => member.section('prices', prices)).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_SCHEMA' }),
    )
    await expect(member.ready()).rejects.toThrow()
    expect(await member.retired).toBe('lost')
  })

  it('leaves with its changes made, and is no way to change anything afterwards', async () => {
    const joined = await daemon()
    const shop = await joined({ service: 'shop' })
    await shop.ready()
    const member = await joined({ service: 'shop.1', follow: 'shop' })
    await member.ready()
    const section = member.section('prices', prices)
    const last = section.put('apple', 1)
    await member.close()
    await last
    expect(shop.section('prices', prices).get('apple')).toBe(1)
    await expect(section.put('apple', 2)).rejects.toMatchObject({ code: 'ERR_FDB_STATE_CLOSED' })
  })
})
