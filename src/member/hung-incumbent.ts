import { constants } from 'node:os'
import { resolve } from 'node:path'
import { FdbError } from '../errors.js'
import { NOTE_NAME, type NotedDescriptors, readDescriptorNames } from '../holder/descriptor-names.js'
import type { Entry } from '../holder/registry.js'
import { STUCK_MS, untilGone } from '../holder/stuck.js'
import {
  closeAll,
  hasEnded,
  inspectOne,
  numbersOf,
  OwnedFd,
  peerCredentials,
  peerPidfd,
} from '../kernel/index.js'
import type { Upgraded, UpgradeProgress } from '../operator/requests.js'
import { successorCommand } from '../os/command-line.js'
import { connectUnix } from '../os/connect.js'
import { openPidfd } from '../os/liveness.js'
import { OtherProcess, type ProcessStart } from '../os/other-process.js'
import { Segment } from '../state/segment.js'
import type { MemberDriver } from './driver.js'
import { settle } from './options.js'
import { type RecoveredDescriptors, sealRecovered, startFromRecovered, wholeSegments } from './start.js'

/** Time for the last words between this process and the one that serves. */
const END_MS = 10_000

export interface ReplaceHung {
  readonly control: string
  /** The command of the successor, with argv0. Empty: as the hung process was started. */
  readonly argv: readonly string[]
  readonly timeoutMs: number
  readonly progress: (step: UpgradeProgress) => void
  readonly signal: AbortSignal
  /** Tells the operator of each step before it is done. */
  readonly report: (line: string) => void
}

/**
 * Replaces an embedded incumbent that does not answer: takes its listeners, its control socket and its state out of it
 * (pidfd_getfd), ends it, and hands all of it to a successor, as an incumbent does. The connections that wait in its queues
 * are the successor's; those that it had taken end with it.
 *
 * The process is the one that the kernel names at the control path, and it must hold that socket. Rejects before it has changed
 * anything with ERR_FDB_STUCK (it cannot be told, or is no such process), ERR_FDB_DENIED, ERR_FDB_TRACE; later with what `upgrade` rejects with.
 */
export async function replaceHung(options: ReplaceHung): Promise<Upgraded> {
  const { control, argv, timeoutMs, progress, signal, report: say } = options
  using hung = await whoListens(control)
  const own = process.geteuid?.()
  if (hung.uid !== own) {
    throw new FdbError(
      'ERR_FDB_DENIED',
      `process ${hung.pid} runs as uid ${hung.uid}, this one as uid ${own}: what it starts in its place would be another user's; run as uid ${hung.uid}`,
    )
  }
  const { startedAs } = hung
  const command = commandFor(argv, startedAs)
  const env = { ...blanked(process.env), ...startedAs.env }
  // A command that cannot be started is noticed before any process is ended.
  successorCommand({ argv: command, env, cwd: startedAs.cwd })
  const { legacy, service } = duplicateFrom(hung, control)
  const output: OwnedFd[] = []
  let driver: MemberDriver
  try {
    for (const number of [1, 2]) output.push(hung.duplicate(number, 'output of the hung process'))
    say(
      `process ${hung.pid} (${service}, generation ${legacy.generation}) does not answer: took ${legacy.entries.length} listeners and descriptors and ${legacy.segments.length} segments of state from it; ending it (SIGKILL)`,
    )
    signal.throwIfAborted()
    // If it wakes up once more, it cannot write what no process would read.
    sealRecovered(legacy.segments, ({ message }) => say(`${message}; it is ended all the same`))
    await end(hung)
    // From here on there is no way back: this process is the incumbent until the successor serves.
    driver = await startFromRecovered(settle({ service, control, upgrade: { probation: 0 } }), legacy)
  } catch (error) {
    closeLegacy(legacy)
    closeAll(output)
    throw error
  }
  try {
    await driver.ready({})
    const stdio = ['ignore' as const, ...numbersOf(output)]
    const ask = { argv: command, env, timeout: timeoutMs, progress, signal }
    const upgraded = await driver.runtime.upgrades.start(ask, { cwd: startedAs.cwd, stdio })
    await Promise.race([
      driver.runtime.shutdown.retired,
      new Promise(resolve => setTimeout(resolve, END_MS).unref()),
    ])
    return upgraded
  } finally {
    closeAll(output)
    await driver.close({ timeout: 0, handBack: false })
  }
}

/** The process that listens, by the kernel's word: who accepts on a control socket has called listen() on it. */
async function whoListens(control: string): Promise<OtherProcess> {
  using channel = await connectUnix(control)
  const { pid } = peerCredentials(channel)
  const pidfd = peerPidfd(channel, `pidfd of ${pid}`) ?? openPidfd(pid)
  if (pidfd instanceof OwnedFd) {
    if (pid > 0 && !hasEnded(pidfd)) return new OtherProcess(pid, pidfd)
    pidfd.close()
  }
  if (pid > 0 && pidfd !== null) {
    throw new FdbError(
      'ERR_FDB_STUCK',
      `process ${pid}, which listened on ${control}, has ended, and another one holds its socket still: there is nobody to end; start the service anew`,
    )
  }
  throw new FdbError(
    'ERR_FDB_STUCK',
    `it cannot be told which process listens on ${control} (${pid === 0 ? 'it is in another PID namespace' : 'there is no pidfd to be had'}): end it by hand`,
  )
}

/** Throws, and holds nothing, unless that process holds the control socket and says what else it holds. */
function duplicateFrom(
  hung: OtherProcess,
  control: string,
): { legacy: RecoveredDescriptors; service: string } {
  const descriptors = hung.descriptors()
  const taken = new Set<OwnedFd>()
  const take = (number: number, label: string) => {
    const fd = hung.duplicate(number, label)
    taken.add(fd)
    return fd
  }
  const find = (target: string) => [...descriptors].find(([, leads]) => leads === target)?.[0]
  try {
    const note = find(`/memfd:${NOTE_NAME} (deleted)`)
    const noted = note === undefined ? null : readDescriptorNames(take(note, NOTE_NAME))
    const listener = [...descriptors]
      .filter(([, leads]) => leads.startsWith('socket:'))
      .map(([number]) => number)
      .find(number => isControl(hung, number, control))
    const lock = find(`${control}.lock`)
    if (noted === null || listener === undefined || lock === undefined) {
      throw new FdbError(
        'ERR_FDB_STUCK',
        `process ${hung.pid}, which the kernel names at ${control}, ${noted === null ? 'is a daemon, or of a release that leaves no note of what it holds' : 'does not hold that socket'}: end it by hand (its members, or its supervisor, go on)`,
        { details: { pids: [hung.pid] } },
      )
    }
    const legacy: RecoveredDescriptors = {
      generation: noted.generation,
      serviceStartedAt: noted.serviceStartedAt,
      entries: entriesOf(noted, descriptors, take),
      segments: segmentsOf(descriptors, take),
      listener: take(listener, 'control listener'),
      lock: take(lock, 'control lock'),
      // Ends with that process.
      reservation: null,
    }
    for (const { fd } of [...legacy.entries, ...legacy.segments]) taken.delete(fd)
    taken.delete(legacy.listener)
    taken.delete(legacy.lock)
    return { legacy, service: noted.service }
  } finally {
    // Descriptors that were only looked at; all of them when this throws.
    closeAll(taken)
  }
}

/** The control socket was bound under a temporary name, which it keeps for the kernel. */
function isControl(hung: OtherProcess, number: number, control: string): boolean {
  using fd = hung.duplicate(number, 'socket')
  const { family, accepting, address } = inspectOne(fd)
  return family === 'unix' && accepting === true && (address === `${control}~` || address === control)
}

function segmentsOf(
  descriptors: ReadonlyMap<number, string>,
  take: (number: number, label: string) => OwnedFd,
): Segment[] {
  const segments = new Map<string, Segment>()
  for (const [number, leads] of descriptors) {
    if (!leads.startsWith('/memfd:fdb-state-')) continue
    const fd = take(number, leads)
    const { ino } = inspectOne(fd)
    if (segments.has(ino)) fd.close()
    else segments.set(ino, Segment.open(fd))
  }
  return wholeSegments(segments.values())
}

async function end(hung: OtherProcess): Promise<void> {
  hung.signal(constants.signals.SIGKILL)
  await untilGone(() => (hung.ended ? [] : [hung.pid]), STUCK_MS)
}

function closeLegacy({ entries, segments, listener, lock }: RecoveredDescriptors): void {
  closeAll([...entries, ...segments].map(({ fd }) => fd))
  closeAll([listener, lock])
}

/** A binary that was given relative to the hung process's folder is found from anywhere. */
function commandFor(argv: readonly string[], { argv: own, cwd }: ProcessStart): readonly string[] {
  if (argv.length > 0) return argv
  const [file = '', ...rest] = own
  return [file.includes('/') ? resolve(cwd, file) : file, ...rest]
}

/** Each variable removed: the successor's environment is that of the process in whose place it comes. */
function blanked(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.keys(env).map(name => [name, undefined]))
}

/**
 * The noted entries of a hung process, found among its descriptors (where each leads, as /proc says). A socket is told by its inode; any
 * other descriptor by its number, if that still leads to the noted target: others may look alike ({@link keptName} says how).
 */
export function entriesOf(
  noted: NotedDescriptors,
  descriptors: ReadonlyMap<number, string>,
  take: (number: number, label: string) => OwnedFd,
): Entry[] {
  const entries: Entry[] = []
  for (const { name, role, spec, ino, dev, number } of noted.entries) {
    for (const [candidate, leads] of descriptors) {
      if (leads.startsWith('socket:') ? leads !== `socket:[${ino}]` : candidate !== number) continue
      const fd = take(candidate, name)
      const about = inspectOne(fd)
      if (about.ino === ino && about.dev === dev) {
        entries.push({ name, role, spec, fd })
        break
      }
      fd.close()
    }
  }
  return entries
}
