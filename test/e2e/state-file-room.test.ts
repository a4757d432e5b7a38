import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join as joinService, type Member } from '../../src/index.js'
import { NIGHTLY } from '../lanes/lane.js'
import { until } from '../processes/until.js'

const MIB = 1024 * 1024

function disk(size: string): { path: string; control: string; resize(size: string): void } | null {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-room-'))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', folder], { stdio: 'ignore' })
  } catch {
    rmSync(folder, { recursive: true, force: true })
    return null
  }
  onTestFinished(() => {
    execFileSync('umount', ['-l', folder])
    rmSync(folder, { recursive: true, force: true })
  })
  const sockets = mkdtempSync(join(tmpdir(), 'fdb-room-'))
  onTestFinished(() => rmSync(sockets, { recursive: true, force: true }))
  const resize = (to: string) => execFileSync('mount', ['-o', `remount,size=${to}`, folder])
  return { path: join(folder, 'state'), control: join(sockets, 'upgrade.sock'), resize }
}

/** The only process of a service, in this process: each one reads the file that the one before has left. */
async function start(stateFile: string, control: string) {
  const member = await joinService({
    service: 'shop',
    control,
    stateFile,
    exitWhenRetired: false,
    upgrade: { probation: 0 },
  })
  onTestFinished(() => member.close({ timeout: 10 }))
  const section = member.section('a')
  await member.ready()
  const put = (key: string, value: Uint8Array) => section.put(key, value, { durable: true })
  return { member, section, put }
}

const stop = (member: Member) => member.close({ timeout: 10 })

describe.runIf(process.geteuid?.() === 0)('a state file on a disk without room for a second one', () => {
  it.runIf(NIGHTLY)('continues after a restart, and the next process reads all of it', async context => {
    const given = disk('1m')
    if (given === null) return context.skip('no file system may be mounted')
    const { path, control } = given
    const first = await start(path, control)
    for (let i = 0; i < 3; i++) await first.put(`k${i}`, Buffer.alloc(200_000, i))
    await stop(first.member)
    const { ino } = statSync(path)
    for (let round = 0; round < 3; round++) {
      const { member, section, put } = await start(path, control)
      expect(section.size).toBe(3 + 2 * round)
      await put(`more ${round}`, Buffer.from('x'))
      await section.bulk([{ key: `bulk ${round}`, value: Buffer.from('y') }], { durable: true })
      expect(statSync(path).ino).toBe(ino)
      await stop(member)
    }
    const last = await start(path, control)
    expect(last.section.size).toBe(9)
    expect(Buffer.from(last.section.get('k2')!)).toEqual(Buffer.alloc(200_000, 2))
  })

  it('gets a successor when there is room', async context => {
    const given = disk('1m')
    if (given === null) return context.skip('no file system may be mounted')
    const { path, control, resize } = given
    const first = await start(path, control)
    await first.put('k', Buffer.alloc(600_000))
    await stop(first.member)
    const second = await start(path, control)
    await second.put('a', Buffer.from('x'))
    const { ino } = statSync(path)
    resize('4m')
    let made = 0
    await until('the file is replaced', async () => {
      await second.put(`n${made++}`, Buffer.from('x'))
      return statSync(path).ino !== ino
    })
    await stop(second.member)
    expect((await start(path, control)).section.size).toBe(2 + made)
  })

  it('becomes small when the state has become small', async context => {
    const given = disk('1m')
    if (given === null) return context.skip('no file system may be mounted')
    const { path, control } = given
    const first = await start(path, control)
    await first.put('k', Buffer.alloc(600_000))
    await stop(first.member)
    const { section, put } = await start(path, control)
    await section.clear({ durable: true })
    let made = 0
    await until('the file is small', async () => {
      await put('n', Buffer.from(`${made++}`))
      return statSync(path).size < MIB / 8
    })
    await put('last', Buffer.from('x'))
    expect(section.size).toBe(2)
  })

  it('becomes small also in a next version, which could not write one yet', async context => {
    const given = disk('1m')
    if (given === null) return context.skip('no file system may be mounted')
    const { path, control } = given
    const first = await start(path, control)
    for (let i = 0; i < 3; i++) await first.section.put(`k${i}`, Buffer.alloc(600_000))
    const { section, put } = await start(path, control)
    await first.member.retired
    await expect(put('n', Buffer.from('x'))).rejects.toMatchObject({ code: 'ERR_FDB_STATE_FILE' })
    await section.clear()
    await until('the file has all changes', async () => {
      return await put('n', Buffer.from('x')).then(
        () => true,
        () => false,
      )
    })
    await put('last', Buffer.from('x'))
    expect(section.size).toBe(2)
  })

  // Not in the gate, because a defect is open: if the failed write is repeated at the moment of the handoff, its bytes stay, and the disk stays full.
  // Beside ten busy processes about every second run shows it.
  it.runIf(NIGHTLY)(
    'gives the room of a write that the full disk has cut back, so that a next version finds it',
    async context => {
      const given = disk('1m')
      if (given === null) return context.skip('no file system may be mounted')
      const { path, control } = given
      const first = await start(path, control)
      await first.put('k', Buffer.alloc(500_000))
      await expect(first.put('l', Buffer.alloc(800_000))).rejects.toMatchObject({
        code: 'ERR_FDB_STATE_FILE',
      })
      expect(statSync(path).size).toBeLessThan(600_000)
      const { section, put } = await start(path, control)
      await first.member.retired
      await section.clear()
      await until('the file has all changes', () =>
        put('n', Buffer.from('x')).then(
          () => true,
          () => false,
        ),
      )
      expect(statSync(path).size).toBeLessThan(MIB / 8)
    },
  )
})
