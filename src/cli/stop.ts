import { constants } from 'node:os'
import { FdbError } from '../errors.js'
import type { OwnedFd } from '../kernel/index.js'
import type { OperatorClient } from '../operator/client.js'
import { type ProcessReply, readProcessReply, STOP, stopBody } from '../operator/service-commands.js'
import {
  type DrainReport,
  isDaemon,
  keptByText,
  type ServiceStatus,
  STATUS_ANSWER_MS,
  type StatusAnswer,
} from '../operator/status-report.js'
import { endsWithin, pidfdOfLiving } from '../os/liveness.js'
import { type AnswerFlags, askService, pollUntil, RETRY_CODES } from './ask-service.js'
import type { Command } from './command.js'
import { addAskOptions } from './find-service.js'
import { durationOption } from './options.js'
import { plain, print, type WaitingLine, writeStderr } from './output.js'
import { CANCEL_SIGNALS } from './signals.js'

/** A process that still lives after this time may wait long for its connections. */
const NOTICE_MS = 1_000
/** A process without connections that still lives after this time may wait long for its own handlers. */
const IDLE_NOTICE_MS = 5_000

interface StopFlags extends AnswerFlags {
  drain?: number
  drop?: true
}

export function addStop(program: Command): void {
  addAskOptions(program.command('stop').description('stop the service when its last connection has ended'))
    .addOption(
      durationOption('--drain <duration>', 'time limit for the last connections; default: as configured'),
    )
    .option('--drop', 'stop a daemon, or a service of a daemon, even if listeners or state are lost with it')
    .notes(`With a daemon's control socket and without --service this ends the daemon; its members keep serving.
A service of a daemon keeps its listeners and its state for the next member, unless you give --drop.
A main process of workers ends with all its workers.
State that is only in memory (no stateFile, no daemon) is lost with the service.`)
    .examples('fd-broker stop --control /run/shop/upgrade.sock', 'fd-broker stop --service shop --drain 5s')
    .action(stop)
}

async function stop({ json, service = '', drain, drop, ...flags }: StopFlags): Promise<void> {
  const until = performance.now() + flags.timeout
  const body = stopBody({ timeoutMs: drain ?? null, drop: drop ?? false })
  let isWatched = true
  let ending: ProcessReply | null = null
  for (const signal of CANCEL_SIGNALS) process.once(signal, () => stopWaiting(signal, ending))
  const reply = await askService(flags, RETRY_CODES, async (client, timeout, line) => {
    using older = await OlderVersions.find(client, service)
    const order = async () => readProcessReply(await client.command(STOP, body, { timeout, service }))
    const reply = await order()
    // The daemon has ended a service that no process serves.
    if (reply.pid === 0) return { ...reply, older: [], held: false }
    const pid = client.pidHere(reply.pid)
    isWatched = pid !== null
    const told = { ...reply, pid: pid ?? reply.pid }
    ending = told
    // The pid belongs to that process while it keeps this connection open.
    const notices = [
      setTimeout(() => void noteConnections(client, told, drain, line), NOTICE_MS),
      setTimeout(() => void noteOwnWork(client, told, drain, line), IDLE_NOTICE_MS),
    ]
    using _notices = { [Symbol.dispose]: () => notices.forEach(clearTimeout) }
    if (isWatched && !(await hasEndedBy(told, until)))
      throw await stillLivesError(client, told, { timeout: flags.timeout, drain })
    if (isWatched) await older.ended(until, told, flags.timeout)
    const held = isWatched && (await isHeld(client, service, told.pid))
    if (held && drop) await order()
    return {
      ...told,
      older: older.reports.map(({ pid, generation }) => ({ pid, generation })),
      held: held && !drop,
    }
  })
  const { held, older } = reply
  if (reply.pid === 0) {
    print(
      json,
      { ok: true, ...reply },
      `the service ${service} has ended: the daemon has closed its listeners and its state\n`,
    )
    return
  }
  const many =
    older.length === 0
      ? ''
      : older.length === 1
        ? ' and an older version'
        : ` and ${older.length} older versions`
  const verb = many === '' ? (isWatched ? 'has ended' : 'ends') : isWatched ? 'have ended' : 'end'
  const kept = held
    ? `; the daemon keeps the listeners and the state of ${service} for its next member (fd-broker stop --service ${service} --drop ends the service)`
    : ''
  print(json, { ok: true, ...reply }, `process ${reply.pid}${many} ${verb}${kept}\n`)
}

/** Whether a daemon holds the service, which no process serves any more now that the process `ended` has ended. */
async function isHeld(client: OperatorClient, service: string, ended: number): Promise<boolean> {
  const found = await pollUntil(performance.now() + STATUS_ANSWER_MS, async () => {
    const answer = await statusHere(client).catch(() => null)
    const at =
      answer !== null && isDaemon(answer) ? answer.services.find(each => each.service === service) : null
    return at?.pid === ended ? null : { isHeld: at != null && at.pid === null }
  })
  return found?.isHeld ?? false
}

function stopWaiting(signal: NodeJS.Signals, ending: ProcessReply | null): never {
  const order = ending === null ? 'the service may have been' : `process ${ending.pid} was`
  writeStderr(`${signal}: no longer waiting; ${order} told to end, and ends after its last connection`)
  process.exit(128 + constants.signals[signal])
}

/** Requests the status, with the pids that the processes have here: they may be in a PID namespace below this one. */
async function statusHere(client: OperatorClient): Promise<StatusAnswer> {
  const here = <T extends { readonly pid?: number | null | undefined }>(of: T): T =>
    of.pid ? { ...of, pid: client.pidHere(of.pid) ?? of.pid } : of
  const ofService = (service: ServiceStatus): ServiceStatus => ({
    ...here(service),
    ...(service.draining && { draining: service.draining.map(here) }),
  })
  const answer = await client.status({ timeout: STATUS_ANSWER_MS })
  return isDaemon(answer) ? { ...here(answer), services: answer.services.map(ofService) } : ofService(answer)
}

/** The older versions of a service that stand by or drain when the service is told to end. Owns their pidfds. */
class OlderVersions implements Disposable {
  readonly reports: readonly DrainReport[]
  readonly #pidfds: ReadonlyMap<number, OwnedFd>

  private constructor(reports: readonly DrainReport[]) {
    this.reports = reports
    this.#pidfds = new Map(
      reports.flatMap(({ pid }) => {
        const pidfd = pidfdOfLiving(pid)
        return pidfd === null ? [] : [[pid, pidfd]]
      }),
    )
  }

  /** Finds none if the serving process does not say. */
  static async find(client: OperatorClient, service: string): Promise<OlderVersions> {
    const answer = await statusHere(client).catch(() => null)
    // The members of a daemon that is told to end keep serving.
    if (answer === null || client.inOtherPidNamespace) return new OlderVersions([])
    const of = isDaemon(answer) ? answer.services.filter(each => each.service === service) : [answer]
    const draining = of.flatMap(({ draining = [] }) => draining)
    return new OlderVersions(
      draining.flatMap(({ pid, generation = 0, phase = '', connections = 0 }) =>
        pid === undefined ? [] : [{ pid, generation, phase, connections }],
      ),
    )
  }

  /** Rejects with ERR_FDB_DEADLINE if one of them lives at `until`. */
  async ended(until: number, { pid }: ProcessReply, timeout: number): Promise<void> {
    const ended = await Promise.all([...this.#pidfds.values()].map(pidfd => endsBy(pidfd, until)))
    const pids = [...this.#pidfds.keys()].filter((_, at) => !ended[at])
    if (pids.length === 0) return
    const left = this.reports.filter(report => pids.includes(report.pid))
    const texts = left.map(
      ({ generation, pid, connections }) =>
        `version ${plain(generation)} (pid ${pid}) with ${connections} ${connections === 1 ? 'connection' : 'connections'}`,
    )
    throw new FdbError(
      'ERR_FDB_DEADLINE',
      `process ${pid} has ended, but older versions still live after ${timeout} ms: ${texts.join(', ')}. Each ends with its last connection or at the end of its drain; an earlier release takes no order to end. kill ${pids.join(' ')} ends them sooner, kill -9 at once`,
    )
  }

  [Symbol.dispose](): void {
    for (const pidfd of this.#pidfds.values()) pidfd.close()
  }
}

/** Resolves with true when the process has ended or if it cannot be watched, and with false at `until`. */
async function hasEndedBy({ pid }: ProcessReply, until: number): Promise<boolean> {
  using pidfd = pidfdOfLiving(pid)
  return pidfd === null || (await endsBy(pidfd, until))
}

function endsBy(pidfd: OwnedFd, until: number): Promise<boolean> {
  return endsWithin(pidfd, Math.max(1, until - performance.now()))
}

/** Shows for which connections the process waits: on a terminal in the line, else as one line on stderr. Never rejects. */
async function noteConnections(
  client: OperatorClient,
  { pid }: ProcessReply,
  drain: number | undefined,
  line: WaitingLine,
): Promise<void> {
  const answer = await statusHere(client).catch(() => null)
  const { connections, text } = answer === null ? NO_CONNECTIONS : connectionsOf(answer, pid)
  if (connections === 0) return
  noteWaiting(
    line,
    `process ${pid} waits for ${text}, at most until ${drainText(drain)} is over; kill -9 ${pid} ends it at once`,
  )
}

/** Shows why a process without connections still lives, as {@link noteConnections} does. Never rejects. */
async function noteOwnWork(
  client: OperatorClient,
  { pid }: ProcessReply,
  drain: number | undefined,
  line: WaitingLine,
): Promise<void> {
  const answer = await statusHere(client).catch(() => null)
  if (answer !== null && connectionsOf(answer, pid).connections > 0) return
  const why = answer === null ? 'it does not answer' : reasonOf(answer, pid, drain)
  noteWaiting(line, `process ${pid} still runs: ${why}; kill -9 ${pid} ends it at once`)
}

function noteWaiting(line: WaitingLine, text: string): void {
  if (process.stderr.isTTY) line.text = text
  else writeStderr(text)
}

/** Asks the process why it still lives. The connection of the order is used, because the control path may have been removed. */
async function stillLivesError(
  client: OperatorClient,
  { pid }: ProcessReply,
  { timeout, drain }: { readonly timeout: number; readonly drain: number | undefined },
): Promise<FdbError> {
  const prefix = `process ${pid} was told to end, but still lives after ${timeout} ms`
  let answer: StatusAnswer
  try {
    answer = await statusHere(client)
  } catch (error) {
    const { code } = error as Partial<FdbError>
    const why =
      code === 'ERR_FDB_DEADLINE'
        ? 'it does not answer (it is stopped, or busy)'
        : `it could not be asked why (${(error as Error).message})`
    return new FdbError('ERR_FDB_DEADLINE', `${prefix}: ${why}`, { cause: error })
  }
  return new FdbError('ERR_FDB_DEADLINE', `${prefix}: ${reasonOf(answer, pid, drain)}`)
}

/** Only signals still reach the process after the order: its control path may have been removed, so `--drain` cannot be given again. */
function drainText(drain: number | undefined): string {
  return drain === undefined ? 'its configured drain' : `its drain of ${drain} ms`
}

const NO_CONNECTIONS = { connections: 0, text: '' }

/**
 * Returns the connections for which a process that was told to end waits: their number, and a text such as `2 connections (2 webSocket)`. A main
 * process waits for those of its workers.
 */
function connectionsOf(answer: StatusAnswer, pid: number): typeof NO_CONNECTIONS {
  const { own, older } = reportsOf(answer, pid)
  const connections =
    isDaemon(answer) && answer.pid === pid
      ? sumOf(answer.services, older)
      : sumOf([own ?? older.find(report => report.pid === pid) ?? {}])
  const kinds = own?.listeners?.flatMap(({ kinds = {} }) => Object.entries(kinds)) ?? []
  const kindsText =
    kinds.length === 0 ? '' : ` (${kinds.map(([kind, count]) => `${count} ${plain(kind)}`).join(', ')})`
  return {
    connections,
    text: `${connections} ${connections === 1 ? 'connection' : 'connections'}${kindsText}`,
  }
}

function sumOf(...reports: readonly (readonly { readonly connections?: number | undefined }[])[]): number {
  return reports.flat().reduce((sum, { connections = 0 }) => sum + connections, 0)
}

function reportsOf(answer: StatusAnswer, pid: number) {
  const services: readonly ServiceStatus[] = isDaemon(answer) ? answer.services : [answer]
  const own = services.find(service => service.pid === pid)
  return { own, older: services.flatMap(({ draining = [] }) => draining) }
}

export function reasonOf(answer: StatusAnswer, pid: number, drain: number | undefined): string {
  const { own, older } = reportsOf(answer, pid)
  const report = own ?? older.find(report => report.pid === pid)
  if (report?.keptBy) {
    const { keptBy } = report
    const what = plain(keptByText(keptBy, 'keep'))
    return `its last connection has ended, and ${what} it: close that when member.retired resolves, or give join() exitWhenRetired; kill ${pid} ends it now`
  }
  const { connections, text } = connectionsOf(answer, pid)
  if (connections > 0)
    return `it still has ${text}. It ends with the last one, or when ${drainText(drain)} is over. kill ${pid} ends it sooner, unless its own SIGTERM handler waits for the connections; kill -9 ${pid} ends it at once`
  const versions = older.map(
    report => `version ${plain(report.generation)} (pid ${plain(report.pid)}, ${plain(report.phase)})`,
  )
  if (versions.length > 0) return `it waits for ${versions.join(', ')}`
  if (report !== undefined && report.connections === undefined)
    return 'it does not say how many connections it has: it ends with the last one, or at the end of its drain'
  return 'it has no connection left: it is about to end, or its application has not closed everything yet (see its log)'
}
