import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join, type Member, serveDaemon } from '../../../src/index.js'
import type { JoinOptions } from '../../../src/member/options/options.js'

function controlPath(): string {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-given-up-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return joinPath(folder, 'control.sock')
}

async function begin(options: Partial<JoinOptions> & { control: string }): Promise<Member> {
  const member = await join({ service: 'shop', timeout: 5_000, ...options })
  onTestFinished(() => member.close({ timeout: 0 }))
  return member
}

async function serving(options: Partial<JoinOptions> & { control: string }): Promise<Member> {
  const member = await begin(options)
  ;(await member.listen('web', 'tcp://127.0.0.1:0')).serve(createServer())
  await member.ready()
  return member
}

/** Turns of the event loop, after the last of which each join() has its Offer. */
const TURNS = 40

describe('a join() that this process gives up, and lives on', () => {
  for (const hosting of ['embedded', 'daemon'] as const)
    it(`at any moment, by its signal, leaves the way to the next one (${hosting})`, async () => {
      const control = controlPath()
      if (hosting === 'daemon') {
        const daemon = await serveDaemon({ control })
        onTestFinished(() => daemon.close())
      }
      await serving({ control, hosting })
      for (let turns = 0; turns < TURNS; turns++) {
        const giveUp = new AbortController()
        const joining = join({ service: 'shop', control, hosting, timeout: 5_000, signal: giveUp.signal })
        const settled = joining.then(member => member.close({ timeout: 0 })).catch(error => error.name)
        for (let i = 0; i < turns; i++) await turn()
        giveUp.abort()
        expect(['AbortError', undefined], `after ${turns} turns`).toContain(await settled)
      }
      await expect(serving({ control, hosting })).resolves.toMatchObject({ generation: 2 })
    })

  it('because no daemon is there leaves the way to the next one', async () => {
    const control = controlPath()
    await serving({ control })
    await expect(begin({ control, hosting: 'daemon' })).rejects.toMatchObject({
      code: 'ERR_FDB_NOT_A_DAEMON',
    })
    await expect(serving({ control })).resolves.toMatchObject({ generation: 2 })
  })

  it('because a daemon is there leaves the way to the next one', async () => {
    const control = controlPath()
    const daemon = await serveDaemon({ control })
    onTestFinished(() => daemon.close())
    await serving({ control, hosting: 'daemon' })
    await expect(begin({ control })).rejects.toMatchObject({ code: 'ERR_FDB_CONTROL_TAKEN' })
    await expect(serving({ control, hosting: 'daemon' })).resolves.toMatchObject({ generation: 2 })
  })
})
