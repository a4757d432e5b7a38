import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it, onTestFinished } from 'vitest'
import { addonFile } from '../../src/kernel/addon.js'
import {
  accept,
  bindSocket,
  connectToDatagram,
  connectToUnix,
  duplicateFrom,
  hasEnded,
  inspectOne,
  makeRoom,
  memoryFile,
  namesSocket,
  type OwnedFd,
  openLockFile,
  peerLives,
  peerPidfd,
  pidfdOf,
  pidOfPidfd,
  reopenReadOnly,
  reopenWritable,
  socketPair,
} from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { parseListenerSpec } from '../../src/listeners/index.js'
import { removeUnixPath, replaceStale } from '../../src/listeners/unix-path.js'
import { ownPidfd, watchDeath } from '../../src/os/liveness.js'
import { fateOf } from '../../src/os/process-identity.js'
import { CLOEXEC, flagsOf } from './support.js'

const open = () => readdirSync('/proc/self/fd').map(Number)

const folder = mkdtempSync(join(tmpdir(), 'fdb-remainder-'))
const listener = bindSocket({ kind: 'unix', host: join(folder, 'socket'), backlog: 8 }, 'listener')
afterAll(() => {
  listener.close()
  rmSync(folder, { recursive: true, force: true })
})

/** Calls that only ask the kernel: each leaves as many descriptors as there were. */
const ASKED: Readonly<Record<string, () => unknown>> = {
  'whether a path names a socket': () => namesSocket(listener, join(folder, 'socket')),
  'whether a path that is not there names it': () => namesSocket(listener, join(folder, 'none')),
  'the process behind a pidfd': () => using(pidfdOf(process.pid)!, pidOfPidfd),
  'whether a process has ended': () => using(pidfdOf(process.pid)!, hasEnded),
  'whether the peer of a socket lives': () => pair(one => peerLives(one)),
  'what a descriptor is': () => inspectOne(listener),
  'room for many descriptors': () => makeRoom(2_000),
  'when a process ends': () => using(ownPidfd()!, pidfd => watchDeath(pidfd, () => {}).close()),
  'whether a peer is dead or has only closed': () => using(ownPidfd()!, pidfd => fateOf(pidfd, 5)),
  'the removal of a path': () => removeUnixPath(listener, parseListenerSpec(`unix:${join(folder, 'none')}`)),
  'the replacement of a path that is in use': () => replaceStale(join(folder, 'socket'), () => listener),
  'the seals of a memory file': () => using(memoryFile('a', 'a'), fd => native.getSeals(fd.raw)),
}

/** Calls that make descriptors: each is closed in a program that is executed. */
const MADE: Readonly<Record<string, () => readonly OwnedFd[]>> = {
  'a memory file': () => [memoryFile('a', 'a')],
  'one that is read again': () => using(memoryFile('a', 'a'), fd => [reopenReadOnly(fd, 'b')]),
  'one that is written again': () => using(memoryFile('a', 'a'), fd => [reopenWritable(fd, 'b')]),
  'a pair of sockets': () => socketPair('a'),
  'a duplicate': () => [listener.dup()],
  'a listener': () => [bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 1 }, 'a')],
  'a connection, at either end': () => {
    const one = connectToUnix(join(folder, 'socket'), 'a')
    return [one, accept(listener, 'b')!]
  },
  'a datagram socket': () => {
    using there = bindSocket({ kind: 'unix', host: join(folder, 'datagram'), datagram: true }, 'a')
    const one = connectToDatagram(join(folder, 'datagram'), false, 'b')
    rmSync(join(folder, 'datagram'))
    return there.closed ? [] : [one]
  },
  'a pidfd': () => [pidfdOf(process.pid)!],
  'a pidfd of a peer': () =>
    pair(one => [peerPidfd(one, 'a')].filter(fd => typeof fd === 'object' && fd !== null)) as OwnedFd[],
  'a descriptor out of a process': () =>
    using(pidfdOf(process.pid)!, pidfd => [duplicateFrom(pidfd, 0, 'a')]),
  'a lock file': () => [openLockFile(join(folder, 'lock'), 0o600, 'a')],
  'what polls many': () => [raw(native.createEpoll()!)],
}

function using<T>(fd: OwnedFd, use: (fd: OwnedFd) => T): T {
  const result = use(fd)
  if (result instanceof Promise) return result.finally(() => fd.close()) as T
  fd.close()
  return result
}

function pair<T>(use: (fd: OwnedFd) => T): T {
  const [one, other] = socketPair('pair')
  try {
    return use(one)
  } finally {
    one.close()
    other.close()
  }
}

function raw(number: number): OwnedFd {
  return { raw: number, close: () => native.close(number) } as unknown as OwnedFd
}

describe('descriptors', () => {
  it.each(Object.entries(ASKED))('number as many as before behind a question: %s', async (_what, ask) => {
    await ask()
    const before = open()
    for (let i = 0; i < 3; i++) await ask()
    expect(open()).toEqual(before)
  })

  it.each(Object.entries(MADE))(
    'close at exec, and have numbers above those of the standard streams: %s',
    (_what, make) => {
      const made = make()
      onTestFinished(() => {
        for (const fd of made) fd.close()
      })
      for (const fd of made) {
        expect(flagsOf(fd.raw) & CLOEXEC).toBe(CLOEXEC)
        expect(fd.raw).toBeGreaterThan(2)
      }
    },
  )

  it('take no number of a closed standard stream when they are duplicated', () => {
    const program = `const addon = require(${JSON.stringify(addonFile())}); require('node:fs').closeSync(0); console.log(addon.dup(1))`
    const { stdout } = spawnSync(process.execPath, ['-e', program], { encoding: 'utf8' })
    expect(Number(stdout)).toBeGreaterThan(2)
  })
})
