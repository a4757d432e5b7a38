import { once } from 'node:events'
import { closeSync, openSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { describe, expect, it, onTestFinished } from 'vitest'
import { stateFileSettings } from '../../src/state/file/files.js'
import { loadStateFile } from '../../src/state/file/load.js'
import { Segment } from '../../src/state/segment.js'
import { StateLog } from '../../src/state/state-log.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { type DiskCall, FileHost } from '../processes/file-host.js'
import { until } from '../processes/until.js'

const [EIO, ENOSPC] = [5, 28]

async function load(path: string): Promise<StateLog> {
  const log = new StateLog()
  onTestFinished(() => log.close())
  const segment = Segment.create(1)
  await loadStateFile(stateFileSettings(path), segment, log.limits, { info() {}, warn() {} })
  await log.adopt(segment)
  return log
}

const inode = (host: FileHost) => statSync(host.path).ino
const named = ({ call, path }: DiskCall) =>
  `${call} ${path
    .split('/')
    .at(-1)!
    .replace(/[0-9a-f]{8}$/, 'XXXXXXXX')}`

describe('changes that are reported as on the disk', () => {
  it('was brought there: the bytes before the new name, the name before the answer, and each change after that', async () => {
    const host = await FileHost.start({ sync: 'never' })
    await host.ask('put', 'a', 'x')
    await host.ask('flush')
    const first = host.calls
    expect(first.map(named)).toEqual(['fdatasync state.new-XXXXXXXX', 'rename state', 'fsync files'])
    const [synced, renamed] = first
    expect([synced!.inode, renamed!.inode]).toEqual([inode(host), inode(host)])
    await host.ask('put', 'b', 'y')
    await until('it is in the file', async () => (await host.ask('status')).sequence === 2)
    expect(host.calls.length).toBe(3)
    const { bytes } = await host.ask('status')
    await host.ask('flush')
    const last = host.calls.slice(3)
    expect(last.map(named)).toEqual(['fdatasync state'])
    // Behind what was written, not before it.
    expect(last[0]).toMatchObject({ inode: inode(host), size: bytes })
    await host.ask('flush')
    expect(host.calls.length).toBe(4)
  })

  it('comes there within `sync`, behind each write with "always", and by put(…, { durable: true })', async () => {
    const timed = await FileHost.start({ sync: 50 })
    await timed.ask('put', 'a', 'x')
    await timed.ask('flush')
    await timed.ask('put', 'b', 'x')
    await until('it was synced', () => timed.calls.at(-1)!.call === 'fdatasync')
    const always = await FileHost.start({ sync: 'always' })
    await always.ask('put', 'a', 'x')
    await always.ask('flush')
    // The first file may have been made before the first change.
    const before = always.calls.length
    await always.ask('put', 'b', 'x')
    await until('it is synced', async () => (await always.ask('status')).syncedSequence === 2)
    // One for the change; a check that is due meanwhile syncs the mark that was written after it.
    const syncs = always.calls.slice(before).map(named)
    expect(new Set(syncs)).toEqual(new Set(['fdatasync state']))
    expect(syncs.length).toBeLessThanOrEqual(2)
    const never = await FileHost.start({ sync: 'never' })
    await never.ask('putDurable', 'a', 'x')
    expect(never.calls.map(named)).toEqual(['fdatasync state.new-XXXXXXXX', 'rename state', 'fsync files'])
    await never.ask('putDurable', 'b', 'x')
    expect(never.calls.slice(3).map(named)).toEqual(['fdatasync state'])
    expect(await never.ask('status')).toMatchObject({ syncedSequence: 2, behindBytes: 0 })
    expect((await load(never.path)).section('routes').size).toBe(2)
  })
})

describe('a durable change in a process that changes much in each turn of its event loop', () => {
  it.runIf(NIGHTLY)(
    'takes two turns, one for each sync and for the new name, and one for a write under way, with the first file and later',
    async () => {
      const host = await FileHost.start({ sync: 'never' })
      for (let i = 0; i < 4; i++) {
        const before = host.calls.length
        const turns = await host.ask('putBusily', `durable ${i}`, 1_000)
        const calls = host.calls.slice(before).map(named)
        // A write of earlier changes, or the check that the file is in its place, can be under way: then the change waits for that.
        expect({ i, calls, turns }).toSatisfy(() => Number(turns) <= 3 + calls.length)
        expect(calls.length).toBeLessThanOrEqual(i === 0 ? 3 : 2)
      }
      const { sequence } = await host.ask('status')
      const ended = once(host.child, 'exit')
      host.child.kill('SIGKILL')
      await ended
      expect(sequence).toBeGreaterThan(8_000)
      expect((await load(host.path)).sequence).toBeGreaterThanOrEqual(sequence)
    },
  )
})

describe('a slow disk', () => {
  it('keeps no change from the file, where it survives the end of the process, while a sync takes long', async () => {
    const host = await FileHost.start({ sync: 50 })
    await host.ask('put', 'a', 'x')
    await host.ask('flush')
    const release = host.holdSyncs('/state')
    const calls = host.calls.length
    await host.ask('put', 'b', 'x')
    await until('it is being synced', () => host.calls.length > calls)
    await host.ask('put', 'c', 'x')
    await until('c is in the file', async () => (await host.ask('status')).sequence === 3)
    expect(await host.ask('status')).toMatchObject({ ok: true, syncedSequence: 1 })
    const ended = once(host.child, 'exit')
    host.child.kill('SIGKILL')
    release()
    await ended
    expect((await load(host.path)).section('routes').size).toBe(3)
  })

  it('keeps no durable change waiting for the file that will replace the present one', async () => {
    const host = await FileHost.start({ sync: 'never' })
    await host.ask('putDurable', 'a', 'x')
    await host.ask('overwrite', 40)
    const release = host.holdSyncs('.new-')
    const calls = host.calls.length
    await host.ask('compact')
    await until('the new file is being synced', () => host.calls.length > calls)
    await host.ask('putDurable', 'b', 'x')
    const before = inode(host)
    release()
    await until('the new file is in place', () => inode(host) !== before)
    await host.ask('putDurable', 'c', 'x')
    expect((await load(host.path)).section('routes').size).toBe(3)
  })
})

describe('a file with secrets', () => {
  const modes = (host: FileHost) => host.creations.map(({ size }) => size.toString(8))

  it('gets a mode for its owner alone, and is another one than any that others could have opened', async () => {
    const host = await FileHost.start({ sync: 'never' })
    await host.ask('put', 'a', 'x')
    await host.ask('flush')
    const opened = openSync(host.path, 'r')
    onTestFinished(() => closeSync(opened))
    await host.ask('putSecret')
    await host.ask('flush')
    expect(modes(host)).toEqual(['640', '600'])
    expect(statSync(host.path).mode & 0o777).toBe(0o600)
    expect(readFileSync(opened).includes('do not tell')).toBe(false)
    expect(readFileSync(host.path).includes('do not tell')).toBe(true)
    // The last content is in the same file, or in another of its kind.
    rmSync(host.path)
    const ended = once(host.child, 'exit')
    host.child.send(['putAndExit', ['b'], 'exit'])
    await ended
    expect(modes(host).at(-1)).toBe('600')
    expect((await load(host.path)).section('routes').size).toBe(2)
  })
})

describe('a sync that fails', () => {
  /** The calls on a file after a sync of it had failed. */
  function askedAgain(calls: DiskCall[]): DiskCall[] {
    const failed = calls.findIndex(call => call.failed !== 0)
    expect(failed).toBeGreaterThanOrEqual(0)
    return calls.slice(failed + 1).filter(call => call.inode === calls[failed]!.inode)
  }

  const failures = [
    ['EIO', EIO, 'never'],
    ['ENOSPC', ENOSPC, 'always'],
    ['ENOSPC', ENOSPC, 'never'],
    ['EIO', EIO, 'always'],
    ['ENOSPC', ENOSPC, 20],
  ] as const
  it.each(failures.slice(0, perLane(1, failures.length)))(
    'of the state file (%s, %i, sync: %s) leads to a new file: what it was told of once is not asked for again',
    async (_, errno, sync) => {
      const host = await FileHost.start({ sync })
      await host.ask('put', 'a', 'x')
      await host.ask('flush')
      const before = inode(host)
      host.failNext('fdatasync', errno)
      await host.ask('put', 'b', 'y')
      if (sync === 'never')
        await expect(host.ask('flush')).rejects.toMatchObject({ code: 'ERR_FDB_STATE_FILE' })
      await until('it has failed', () => host.hasFailed)
      await until('a new file is there', async () => {
        const { ok, syncedSequence } = await host.ask('status')
        return ok && syncedSequence === 2
      })
      await host.ask('flush')
      expect(inode(host)).not.toBe(before)
      expect(askedAgain(host.calls)).toEqual([])
      expect((await load(host.path)).section('routes').size).toBe(2)
    },
  )

  it('of a file that is to become it leaves the one that is there, and begins with another', async () => {
    const host = await FileHost.start({ sync: 'never' })
    host.failNext('fdatasync', ENOSPC)
    await host.ask('put', 'a', 'x')
    await until('it has failed', () => host.hasFailed)
    await until('another is there', async () => (await host.ask('status')).syncedSequence === 1)
    const [failed, again] = host.calls.filter(({ call }) => call === 'fdatasync')
    expect(again!.path).not.toBe(failed!.path)
    expect(readdirSync(`${host.folder}/files`)).toEqual(['state'])
  })

  it.runIf(NIGHTLY)('of the folder, when the new one has its name already, leads to one more', async () => {
    const host = await FileHost.start({ sync: 'never' })
    host.failNext('fsync', EIO)
    await host.ask('put', 'a', 'x')
    await until('it has failed', () => host.hasFailed)
    await until('another is there', async () => (await host.ask('status')).syncedSequence === 1)
    expect(host.calls.map(named)).toEqual([
      ...['fdatasync state.new-XXXXXXXX', 'rename state', 'fsync files'],
      ...['fdatasync state.new-XXXXXXXX', 'rename state', 'fsync files'],
    ])
    await host.ask('put', 'b', 'y')
    await host.ask('flush')
    expect((await load(host.path)).section('routes').size).toBe(2)
    expect(readdirSync(`${host.folder}/files`)).toEqual(['state'])
  })

  it('reaches the caller of a change that had to be on the disk, which is made all the same', async () => {
    const host = await FileHost.start({ sync: 'never' })
    await host.ask('putDurable', 'a', 'x')
    host.failNext('fdatasync', EIO)
    await expect(host.ask('putDurable', 'b', 'y')).rejects.toMatchObject({ code: 'ERR_FDB_STATE_FILE' })
    await until('it is on the disk', async () => (await host.ask('status')).syncedSequence === 2)
    expect((await load(host.path)).section('routes').size).toBe(2)
  })
})

describe('a process that ends by itself', () => {
  const KEYS = Array.from({ length: 20 }, (_, i) => `last${i}`)

  it.each(perLane(['exit'] as const, ['exit', 'throw'] as const))(
    '(%s) leaves everything that it acknowledged in the file',
    async how => {
      for (const sync of perLane(['never'] as const, ['never', 'always', 1000] as const)) {
        const host = await FileHost.start({ sync })
        await host.ask('put', 'a', 'x')
        await host.ask('flush')
        const ended = once(host.child, 'exit')
        host.child.send(['putAndExit', KEYS, how])
        expect((await ended)[0]).toBe(how === 'exit' ? 7 : 1)
        expect([...(await load(host.path)).section('routes').keys()].sort()).toEqual(['a', ...KEYS].sort())
        expect(host.calls.at(-1)!.call).toBe('fdatasync')
        expect(readdirSync(`${host.folder}/files`)).toEqual(['state'])
      }
    },
  )

  it('before there was a file, too', async () => {
    const host = await FileHost.start({ service: 'shop' })
    const ended = once(host.child, 'exit')
    host.child.send(['putAndExit', KEYS, 'exit'])
    await ended
    expect((await load(host.path)).section('routes').size).toBe(KEYS.length)
    expect(host.calls.map(({ call }) => call).slice(-3)).toEqual(['fdatasync', 'rename', 'fsync'])
  })

  it.runIf(NIGHTLY)('leaves the file of another service as it is', async () => {
    const shop = await FileHost.start({ service: 'shop' })
    await shop.ask('put', 'a', 'x')
    await shop.ask('flush')
    const before = readFileSync(shop.path)
    const bank = await FileHost.start({ service: 'bank' }, shop.path)
    const ended = once(bank.child, 'exit')
    bank.child.send(['putAndExit', KEYS, 'exit'])
    await ended
    expect(readFileSync(shop.path)).toEqual(before)
    expect(readdirSync(`${shop.folder}/files`)).toEqual(['state'])
  })

  it('in the middle of writes, at any moment', async () => {
    for (let round = 0; round < perLane(2, 12); round++) {
      const sync = (['never', 'always', 1] as const)[round % 3]!
      const host = await FileHost.start({ sync })
      let said = ''
      host.child.stdout!.on('data', data => (said += data))
      const ended = once(host.child, 'close')
      host.child.send(['writeAndExit', 30 + round * 17, round % 2 === 0 ? 200 : 50_000])
      await ended
      const value = Buffer.from((await load(host.path)).section('large').get('n')!).toString()
      expect(Number(said)).toBeGreaterThan(0)
      expect(Number.parseInt(value, 10)).toBeGreaterThanOrEqual(Number(said))
    }
  })
})
