import { realpathSync } from 'node:fs'
import { constants } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { Backoff } from '../../base/backoff.js'
import { FdbError } from '../../errors.js'
import { isUnderWay } from '../../handoff/phases.js'
import { NOTE_NAME, type NotedDescriptors, readDescriptorNames } from '../../holder/descriptor-names.js'
import { type Entry, parseEntry } from '../../holder/entry.js'
import { STUCK_MS, untilGone } from '../../holder/stuck.js'
import {
  closeAll,
  hasEnded,
  inspectOne,
  numbersOf,
  OwnedFd,
  peerCredentials,
  peerPidfd,
} from '../../kernel/index.js'
import { formatAddress } from '../../listeners/index.js'
import type { Upgraded, UpgradeProgress } from '../../operator/requests.js'
import { askServing } from '../../operator/serving.js'
import { type OwnStart, successorCommand } from '../../os/command-line.js'
import { connectUnix } from '../../os/connect.js'
import { checkGivenUp, givingUp, type NamedAddress } from '../../os/given-up.js'
import { openPidfd } from '../../os/liveness.js'
import { OtherProcess } from '../../os/other-process.js'
import { Segment } from '../../state/segment.js'
import type { MemberDriver } from '../driver.js'
import type { SuccessorOutput } from '../operator/upgrades.js'
import { resolveOptions } from '../options/options.js'
import { claimRecovered, type RecoveredDescriptors, startFromRecovered, wholeSegments } from './start.js'

/** After the handoff this process waits at most this long for its own retirement. */
const END_MS = 10_000
/** A process that serves answers within this time when it is asked once more. */
const ANSWER_MS = 1_000
/** Delays before a next version that has failed is started again. */
const RESTART = { firstMs: 500, longestMs: 5_000 }

interface ReplaceHung {
  readonly control: string
  /** The successor's command, with argv0. If empty, the successor gets the command of the hung process. */
  readonly argv: readonly string[]
  /** The addresses that the successor gives up. */
  readonly without: readonly string[]
  readonly timeoutMs: number
  readonly progress: (step: UpgradeProgress) => void
  readonly signal: AbortSignal
  /** Called with a line for the operator before each step. */
  readonly report: (line: string) => void
  /** Opens the output of a successor, for the environment of the hung process; null: the successor shares the output of that process. */
  readonly openOutput: (env: Readonly<NodeJS.ProcessEnv>) => SuccessorOutput | null
}

/**
 * Replaces an embedded incumbent that does not answer: duplicates its listeners, control socket and state (pidfd_getfd), kills it, and
 * hands everything over to a successor. Connections that wait in the listen queues reach the successor; accepted ones end with the hung
 * process.
 *
 * Starts a next version that fails again, until one serves or `timeoutMs` elapses: this process keeps the listeners meanwhile. Then, or if
 * `signal` aborts, closes them; no process serves.
 *
 * Asks once more before: a process that has stopped since may have accepted the first connection, and another one serve.
 *
 * The hung process is the one that the kernel reports for the control socket, and it must still hold that socket. Before the kill, rejects
 * with ERR_FDB_STUCK (the process answers, is unknown, or holds no such socket), ERR_FDB_DENIED or ERR_FDB_TRACE; later with the errors of `upgrade`.
 */
export async function replaceHung(options: ReplaceHung): Promise<Upgraded> {
  const { control, argv, without, progress, signal, report, openOutput } = options
  await refuseAnswering(control)
  using hung = await findListeningProcess(control)
  const own = process.geteuid?.()
  if (hung.uid !== own) {
    throw new FdbError(
      'ERR_FDB_DENIED',
      `process ${hung.pid} runs as uid ${hung.uid}, this one as uid ${own}, and would start the successor as another user: run this command as uid ${hung.uid}`,
    )
  }
  const { env: hungEnv, ...shown } = hung.startedAs
  const { recovered, service, start = shown } = duplicateFrom(hung, control)
  const { cwd } = start
  const command = commandFor(argv, start)
  const env = { ...unsetAll(process.env), ...hungEnv, ...givingUp(without) }
  const output: OwnedFd[] = []
  let driver: MemberDriver
  try {
    // Checks before the kill that the command can be started.
    successorCommand({ argv: command, env, cwd })
    checkGivenUp(without, listenersIn(recovered), hung.pid)
    for (const number of [1, 2]) output.push(hung.duplicate(number, 'output of the hung process'))
    report(
      `process ${hung.pid} (${service}, generation ${recovered.generation}) does not answer: duplicated ${recovered.entries.length} listeners and descriptors and ${recovered.segments.length} segments of state from it; killing it (SIGKILL)`,
    )
    signal.throwIfAborted()
    // If the hung process wakes up before the kill, it must not write changes that no process would read. A successor that has joined it must not
    // take over when it dies.
    const isFirst = claimRecovered(recovered.segments, ({ message }) =>
      report(`${message}; the process is killed nevertheless`),
    )
    if (!isFirst) throw takenBy(hung.pid, 'another command replaces it, or was ended while it did')
    if (hung.hasEnded) throw takenBy(hung.pid, 'it has just ended, and its successor may serve')
    hung.signal(constants.signals.SIGKILL)
    await untilGone(() => (hung.hasEnded ? [] : [hung.pid]), STUCK_MS)
    // From here on this process is the incumbent, until the successor serves.
    driver = await startFromRecovered(
      resolveOptions({ service, control, upgrade: { probation: 0 } }),
      recovered,
    )
    driver.runtime.replacedPid = hung.pid
  } catch (error) {
    closeRecovered(recovered)
    closeAll(output)
    throw error
  }
  try {
    await driver.ready({})
    const { upgrades, shutdown } = driver.runtime
    const shared: SuccessorOutput = { stdio: ['ignore', ...numbersOf(output)], env: {}, close: () => {} }
    upgrades.output = () => openOutput(hungEnv) ?? shared
    const where = { cwd, isStandIn: true }
    const upgraded = await repeatUntilServed(driver, options, hung.pid, timeout =>
      upgrades.start({ argv: command, env, timeout, progress, signal }, where),
    )
    await Promise.race([shutdown.retired, new Promise(resolve => setTimeout(resolve, END_MS).unref())])
    return upgraded
  } finally {
    closeAll(output)
    await driver.close({ timeout: 0, handBack: false })
  }
}

/** Starts a next version, and again after each failure, until one serves, also one that another command has started. */
export async function repeatUntilServed(
  driver: { readonly runtime: Pick<MemberDriver['runtime'], 'hosting' | 'machine' | 'upgrades'> },
  { timeoutMs, signal, report }: Pick<ReplaceHung, 'timeoutMs' | 'signal' | 'report'>,
  hung: number,
  start: (timeoutMs: number) => Promise<Upgraded>,
): Promise<Upgraded> {
  const { hosting, machine, upgrades } = driver.runtime
  const until = performance.now() + timeoutMs
  const backoff = new Backoff(RESTART)
  const holds = () => machine.phase === 'serving'
  for (;;) {
    try {
      return await start(Math.max(1, Math.round(until - performance.now())))
    } catch (thrown) {
      await upgrades.whenServing()
      if (!holds()) return upgrades.servedBy(0) ?? Promise.reject(thrown)
      const error =
        signal.aborted && !FdbError.is(thrown)
          ? new FdbError('ERR_FDB_ABORTED', 'the upgrade was cancelled')
          : FdbError.from(thrown)
      const pauseMs = backoff.next()
      const left = until - performance.now() - pauseMs
      if (signal.aborted || left <= 0) throw lost(hung, error)
      report(
        `no version serves yet: the next one is started again in ${pauseMs} ms, until it serves, for ${Math.ceil(left / 1_000)} s at most; this command keeps the listeners meanwhile, and Ctrl-C closes them. ${error.code}: ${error.message}`,
      )
      // A failed version that keeps descriptors would block the next one, whose error says so.
      if (!isUnderWay(machine.holder?.phase)) await hosting.killStuck?.().catch(() => {})
      await machine.changes.until(() => !holds(), pauseMs, signal).catch(() => {})
    }
  }
}

/** Returns the error of a replacement that has left no process: the hung one was killed, and no next version has served. */
function lost(hung: number, { code, message, phase, details }: FdbError): FdbError {
  const why = `no version serves: process ${hung} was killed, its next version did not serve, and this command has closed the listeners; state that is in no file is lost; start the program again. The last error: ${message}`
  return new FdbError(code, why, { details, ...(phase !== undefined && { phase }) })
}

function takenBy(hung: number, why: string): FdbError {
  return new FdbError(
    'ERR_FDB_STUCK',
    `process ${hung} is not replaced: ${why}: see fd-broker status, and try again; if no process serves, end process ${hung} and start the program again`,
    { details: { pids: [hung] } },
  )
}

/** Throws ERR_FDB_STUCK if the service answers. */
async function refuseAnswering(control: string): Promise<void> {
  const serving = await askServing(control, '', ANSWER_MS)
  if (serving === null || FdbError.is(serving)) return
  throw new FdbError(
    'ERR_FDB_STUCK',
    `process ${serving.pid ?? 0}, which serves, answers again: no process was killed; try again`,
    { retryable: true },
  )
}

/** Returns the process that called listen() on the control socket (SO_PEERCRED). */
async function findListeningProcess(control: string): Promise<OtherProcess> {
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
      `process ${pid}, which listened on ${control}, has ended, and an unknown process still holds its socket: there is no process to kill; restart the service`,
    )
  }
  throw new FdbError(
    'ERR_FDB_STUCK',
    `the process that listens on ${control} is unknown (${pid === 0 ? 'it is in another PID namespace' : 'the kernel gives no pidfd'}): end it manually`,
  )
}

/**
 * Duplicates the descriptors of the hung process. Throws ERR_FDB_STUCK if that process does not hold the control socket, or has not recorded
 * the names of its descriptors.
 */
function duplicateFrom(
  hung: OtherProcess,
  control: string,
): { recovered: RecoveredDescriptors } & Pick<NotedDescriptors, 'service' | 'start'> {
  const descriptors = hung.descriptors()
  const duplicates = new Set<OwnedFd>()
  const take = (number: number, label: string) => {
    const fd = hung.duplicate(number, label)
    duplicates.add(fd)
    return fd
  }
  const find = (target: string) => [...descriptors].find(([, link]) => link === target)?.[0]
  try {
    const note = find(`/memfd:${NOTE_NAME} (deleted)`)
    const noted = note === undefined ? null : readDescriptorNames(take(note, NOTE_NAME))
    const listener = [...descriptors]
      .filter(([, link]) => link.startsWith('socket:'))
      .map(([number]) => number)
      .find(number => isControl(hung, number, control))
    const lock = find(`${realPath(control)}.lock`)
    if (noted === null || listener === undefined || lock === undefined) {
      throw new FdbError(
        'ERR_FDB_STUCK',
        `process ${hung.pid}, which listens on ${control}, ${noted === null ? 'is a daemon, or of a release that does not record the names of its descriptors' : 'does not hold that socket'}: end it manually (its members or its supervisor continue)`,
        { details: { pids: [hung.pid] } },
      )
    }
    const recovered: RecoveredDescriptors = {
      generation: noted.generation,
      serviceStartedAt: noted.serviceStartedAt,
      entries: entriesOf(noted, descriptors, take),
      segments: segmentsOf(descriptors, take),
      listener: take(listener, 'control listener'),
      lock: take(lock, 'control lock'),
      // The kernel frees the reserved abstract name when the hung process ends.
      reservation: null,
    }
    for (const { fd } of [...recovered.entries, ...recovered.segments]) duplicates.delete(fd)
    duplicates.delete(recovered.listener)
    duplicates.delete(recovered.lock)
    const { service, start } = noted
    return { recovered, service, ...(start && { start }) }
  } finally {
    // After an exception the set still has all duplicates; otherwise those that are not returned.
    closeAll(duplicates)
  }
}

/** A control socket is bound at `PATH~`, then renamed; the kernel still reports the first name. */
function isControl(hung: OtherProcess, number: number, control: string): boolean {
  using fd = hung.duplicate(number, 'socket')
  const { family, accepting, address } = inspectOne(fd)
  const bound = family === 'unix' && accepting === true && address !== undefined ? realPath(address) : null
  const real = realPath(control)
  return bound === `${real}~` || bound === real
}

/** Returns the absolute path without links in its folder: each process may name the folder in its own way, and the kernel names it so. */
function realPath(control: string): string {
  const path = resolve(control)
  try {
    return join(realpathSync(dirname(path)), basename(path))
  } catch {
    return path
  }
}

function segmentsOf(
  descriptors: ReadonlyMap<number, string>,
  take: (number: number, label: string) => OwnedFd,
): Segment[] {
  const segments = new Map<string, Segment>()
  for (const [number, link] of descriptors) {
    if (!link.startsWith('/memfd:fdb-state-')) continue
    const fd = take(number, link)
    const { ino } = inspectOne(fd)
    if (segments.has(ino)) fd.close()
    else segments.set(ino, Segment.open(fd))
  }
  return wholeSegments(segments.values())
}

function closeRecovered({ entries, segments, listener, lock }: RecoveredDescriptors): void {
  closeAll([...entries, ...segments].map(({ fd }) => fd))
  closeAll([listener, lock])
}

/** Returns `argv` or, if that is empty, the hung process's command, with a relative path resolved in that process's folder. */
function commandFor(argv: readonly string[], { argv: own, cwd }: OwnStart): readonly string[] {
  if (argv.length > 0) return argv
  const [file = '', ...rest] = own
  return [file.includes('/') ? resolve(cwd, file) : file, ...rest]
}

function listenersIn({ entries }: RecoveredDescriptors): NamedAddress[] {
  return entries.flatMap(({ name, role, fd }) =>
    role === 'listener' ? [{ name, address: formatAddress(inspectOne(fd)) }] : [],
  )
}

/** Maps each variable to undefined, because the successor gets the environment of the hung process instead. */
function unsetAll(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.keys(env).map(name => [name, undefined]))
}

/**
 * Duplicates the recorded entries of a hung process. `descriptors`: its descriptor numbers and their link targets in /proc. A socket is
 * found by its inode. Any other descriptor is found by its number and must still have the recorded inode and device, because an inode
 * alone is ambiguous (see {@link fdStoreName}).
 */
export function entriesOf(
  noted: NotedDescriptors,
  descriptors: ReadonlyMap<number, string>,
  take: (number: number, label: string) => OwnedFd,
): Entry[] {
  const entries: Entry[] = []
  for (const noting of noted.entries) {
    const { name, ino, dev, number } = noting
    for (const [candidate, link] of descriptors) {
      if (link.startsWith('socket:') ? link !== `socket:[${ino}]` : candidate !== number) continue
      const fd = take(candidate, name)
      const about = inspectOne(fd)
      if (about.ino === ino && about.dev === dev) {
        entries.push(parseEntry(noting, fd))
        break
      }
      fd.close()
    }
  }
  return entries
}
