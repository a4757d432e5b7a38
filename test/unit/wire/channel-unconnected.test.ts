import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { closeAll, OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { Channel } from '../../../src/wire/channel.js'
import { openFds } from '../../processes/descriptors.js'
import { OwnTimers } from '../../processes/own-timers.js'
import { until } from '../../processes/until.js'

const REASON = new Error('the caller gives up')

function folderOf(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-connect-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** A socket at which no process accepts. */
function listening(folder = folderOf()): string {
  const path = join(folder, 's')
  const fd = OwnedFd.own(native.bindSocket({ kind: 'unix', host: path, backlog: 0 }), 'listener')
  onTestFinished(() => fd.close())
  return path
}

/** The same with a full queue. */
function full(): string {
  const path = listening()
  const waiting: OwnedFd[] = []
  onTestFinished(() => closeAll(waiting))
  for (;;) {
    try {
      waiting.push(OwnedFd.own(native.connectUnix(path, false), 'client'))
    } catch {
      return path
    }
  }
}

/** The same in a folder in which other users can replace the socket. */
function untrusted(): string {
  const folder = join(folderOf(), 'shared')
  mkdirSync(folder)
  chmodSync(folder, 0o777)
  return listening(folder)
}

function file(): string {
  const path = join(folderOf(), 'file')
  writeFileSync(path, '')
  return path
}

const aborted = AbortSignal.abort(REASON)

/** Aborts in a later turn of the event loop. */
function soon(): AbortSignal {
  const controller = new AbortController()
  setImmediate(() => controller.abort(REASON))
  return controller.signal
}

describe('a connection that is not made leaves no descriptor and no timer', () => {
  it.each<[string, () => string, Parameters<typeof Channel.connect>[1], object]>([
    ['no socket has this path', () => join(folderOf(), 's'), {}, { code: 'ERR_FDB_NO_HOLDER' }],
    ['another kind of file has this path', file, {}, { code: 'ERR_FDB_NO_HOLDER' }],
    ['other users can replace the socket', untrusted, {}, { code: 'ERR_FDB_CONTROL_PATH' }],
    ['the queue stays full', full, { timeoutMs: 10 }, { code: 'ERR_FDB_DEADLINE' }],
    ['the caller gives up while the queue is full', full, { signal: soon() }, REASON],
    ['the caller has given up, and the queue is full', full, { signal: aborted }, REASON],
    ['the caller has given up, and a process would accept', listening, { signal: aborted }, REASON],
  ])('if %s', async (_why, pathOf, options, error) => {
    const path = pathOf()
    const before = openFds(process.pid)
    using timers = new OwnTimers()
    await expect(Channel.connect(path, options)).rejects.toMatchObject(error)
    expect(openFds(process.pid)).toEqual(before)
    await until(
      'no timer is left',
      () => timers.places.length === 0,
      5_000,
      () => timers.places,
    )
  })

  it('if it is made, and the caller closes it', async () => {
    const path = listening()
    const before = openFds(process.pid)
    const channel = await Channel.connect(path)
    await channel.close()
    expect(openFds(process.pid)).toEqual(before)
  })
})
