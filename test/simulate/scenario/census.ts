import { NODE } from '../kernel/children.js'
import { DISK } from '../kernel/disk.js'
import type { Listener, Open, Pidfd, Stream } from '../kernel/objects.js'
import type { SimulatedProcess } from '../process.js'
import type { World } from '../world.js'
import { PID_FILE } from './pid-files.js'
import { CONTROL, STATE_FILE } from './program.js'

/** The most descriptors and timers that a process needs after all trouble, when the last version has served for a while. */
interface Share {
  readonly listeners: number
  readonly unixListeners: number
  readonly memoryFiles: number
  readonly unixStreams: number
  readonly pidfds: number
  readonly files: number
  readonly timers: number
}

/** For a daemon with three versions: one serves, one stands by, one drains. */
const DAEMON: Share = {
  listeners: 2,
  unixListeners: 2,
  memoryFiles: 14,
  unixStreams: 6,
  pidfds: 9,
  files: 3,
  timers: 12,
}
const VERSION: Share = {
  listeners: 2,
  unixListeners: 2,
  memoryFiles: 30,
  unixStreams: 8,
  pidfds: 8,
  files: 3,
  timers: 10,
}

/** The events of a service stay when the service has ended. */
export const isEvents = (name: string) => name.startsWith(CONTROL) && name.endsWith('.events')

const NAMES = new Set([NODE, CONTROL, `${CONTROL}.lock`, `${CONTROL}.members`, STATE_FILE, PID_FILE])

const REASON = /\.[0-9a-f]{16}(?:\.\w+)?$/

/** Returns what has been left behind. `daemons`: the processes of a daemon, `versions`: those of the service, which has so many more listeners. */
export function remains(
  world: World,
  daemons: readonly SimulatedProcess[],
  versions: readonly SimulatedProcess[],
  moreListeners = 0,
): string[] {
  const withListeners = (share: Share) => ({ ...share, listeners: share.listeners + moreListeners })
  const names = [...world.kernel.names].filter(([name, { type }]) => type !== 'dir' && !NAMES.has(name))
  // A version or daemon that was killed during an upgrade that it had started leaves the files with the reasons of the next one.
  const mayLeave = [...world.processes.values()].some(({ dead, exit }) => dead && exit.signal === 'SIGKILL')
  const isReason = (name: string) => mayLeave && (REASON.test(name) || name.startsWith(`${PID_FILE}.`))
  const isOnDisk = (name: string) => name.startsWith(`${DISK}/`)
  return [
    ...names
      .filter(([name]) => !isOnDisk(name) && !isReason(name) && !isEvents(name))
      .map(([name]) => `the file ${name} remains`),
    ...daemons.flatMap(p => more(p, withListeners(DAEMON))),
    ...versions.flatMap(p => more(p, withListeners(VERSION))),
    ...daemons.flatMap(p => ofTheDead(p)),
  ]
}

/** A process that has left its service waits for so long that another one ends. Later it reports to that one why it lives. */
const HEARS_MS = 1_000
const TURN_MS = 1

/** Calls `exit`, soon, for a process that has left its service. Fails one that keeps descriptors except connections of its clients: a program may live on. */
export function exitWithNothing(p: SimulatedProcess, exit: () => void): void {
  const kept = () => [...p.fds.values()].filter(open => !(open.kind === 'stream' && (open as Stream).tcp))
  if (kept().length === 0) {
    exit()
    return
  }
  const since = p.world.now
  p.setTimer(() => {
    const names = kept().map(nameOf)
    // A process that was stopped may report already.
    if (names.length > 0 && p.stoppedUntil < since - TURN_MS)
      p.fail(new Error(`its service has ended in it, and it keeps ${names.join(', ')}`))
    exit()
  }, HEARS_MS)
}

function nameOf(open: Open): string {
  if (open.kind === 'pidfd') return `a pidfd of ${(open as Pidfd).target.name}`
  return open.kind === 'file' ? `the file ${open.inode!.name}` : `a ${open.kind}`
}

function more(p: SimulatedProcess, share: Share): string[] {
  const count = (is: (open: Open) => boolean) => [...p.fds.values()].filter(is).length
  const has: Share = {
    listeners: count(open => open.kind === 'listener' && (open as Listener).tcp),
    unixListeners: count(open => open.kind === 'listener' && !(open as Listener).tcp),
    memoryFiles: count(open => open.kind === 'file' && open.inode!.sealable),
    unixStreams: count(open => open.kind === 'stream' && !(open as Stream).tcp),
    pidfds: count(open => open.kind === 'pidfd'),
    files: count(open => open.kind === 'file' && !open.inode!.sealable),
    timers: [...p.timers.values()].filter(({ ofSource }) => ofSource).length,
  }
  const wrong = Object.entries(has).filter(([what, n]) => n > share[what as keyof Share])
  const closed = count(open => open.kind === 'stream' && (open as Stream).peer === null)
  return [
    ...wrong.map(([what, n]) => `${p.name} keeps ${n} ${what}`),
    ...(closed > 0 ? [`${p.name} keeps ${closed} connections whose other end is closed`] : []),
  ]
}

function ofTheDead(p: SimulatedProcess): string[] {
  const dead = [...p.fds.values()].filter(open => open.kind === 'pidfd' && (open as Pidfd).target.dead)
  return dead.map(open => `${p.name} keeps a pidfd of ${(open as Pidfd).target.name}, which has ended`)
}
