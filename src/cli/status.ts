import { setTimeout as sleep } from 'node:timers/promises'
import type { MoveReport } from '../connections/counts.js'
import { FdbError } from '../errors.js'
import { isCommitted } from '../handoff/phases.js'
import { statusAt } from '../operator/client.js'
import { isDaemon, keptByText, type ServiceStatus, type StatusAnswer } from '../operator/status-report.js'
import type { RecentRequests } from '../proxy/metrics/exchange-counts.js'
import type { SupervisorStatus } from '../run/status.js'
import type { SourceStatus } from '../sources/follow-source.js'
import type { AnswerFlags } from './ask-service.js'
import type { Command } from './command.js'
import { addServiceOptions } from './find-service.js'
import { durationOption } from './options.js'
import {
  codeAndMessage,
  type ExitCode,
  facts,
  failureText,
  formatDuration,
  plain,
  plainLines,
  print,
  style,
  table,
  writeStderr,
} from './output.js'
import { narrowAnswer } from './status-answer.js'

export function addStatus(program: Command): void {
  addServiceOptions(
    program
      .command('status')
      .description('show generation, listeners, connections, state, draining generations, last failure'),
  )
    .json()
    .option('--watch', 'ask again each second, until Ctrl-C; with --json an answer is a line')
    .addOption(durationOption('--timeout <duration>', 'limit for the answer', '5s'))
    .notes(
      `The exit code is 3 also if no process serves, and 1 also if a program under fd-broker run crashes repeatedly. The reason is on stderr.`,
    )
    .examples(
      'fd-broker status --control /run/shop/upgrade.sock',
      "fd-broker status --control /run/shop/upgrade.sock --json | jq '.listeners[].connections'",
    )
    .action(async ({ watch, ...flags }: AnswerFlags & { watch?: true }) =>
      watch ? await watchStatus(flags) : await status(flags),
    )
}

async function ask({ control, service = '', timeout }: AnswerFlags): Promise<StatusAnswer> {
  return withAges(narrowAnswer(await statusAt(control, timeout), { control, service }))
}

const WATCH_MS = 1_000
/** On a terminal the next answer replaces the last one. */
const CLEAR = '\x1b[H\x1b[J'

async function watchStatus(flags: AnswerFlags): Promise<never> {
  const clear = process.stdout.isTTY && !flags.json ? CLEAR : ''
  for (;;) {
    try {
      const answer = await ask(flags)
      process.stdout.write(flags.json ? `${JSON.stringify(answer)}\n` : `${clear}${statusText(answer)}\n`)
    } catch (error) {
      // A service that is started again answers later.
      if (!FdbError.is(error) || error.code === 'ERR_FDB_OPTION') throw error
      process.stdout.write(clear)
      writeStderr(failureText(error))
    }
    await sleep(WATCH_MS)
  }
}

async function status({ json, ...flags }: AnswerFlags): Promise<void> {
  const answer = await ask(flags)
  print(json, answer, () => statusText(answer))
  const ill = illnessOf(answer)
  if (ill === null) return
  writeStderr(ill.why)
  process.exitCode = ill.code
}

const DIGEST_SHOWN = 12
const WORKERS = ['WORKER', 'SERVICE', 'PHASE', 'PID', 'GENERATION', 'CONNECTIONS', 'RESTARTS', 'LAST FAILURE']

/** Formats a status as text. Omits fields that the other process did not send. */
export function statusText(answer: StatusAnswer, now: number = Date.now()): string {
  if (!isDaemon(answer)) return `${serviceLines(answer, now).join('\n')}\n`
  const { control, descriptors, generation, pid, programs, startedAt, rssBytes, services, workers } = answer
  const head: [string, string | null][] = [
    ['daemon', services.length === 1 ? '1 service' : `${services.length} services`],
    ['control', cellOf(control)],
    ['generation', cellOf(generation)],
    ['pid', cellOf(pid)],
    ['uptime', since(startedAt, now)],
    ['memory', cellOf(rssBytes, size)],
    ['workers', cellOf(workers?.count)],
    [
      'connections',
      workers ? cellOf(services.reduce((sum, { connections = 0 }) => sum + connections, 0)) : null,
    ],
    ['descriptors', descriptors ? cellOf(descriptors) : null],
  ]
  const claims = block('programs', ['PID', 'SINCE', 'DESCRIPTORS'], programs, program => [
    program.pid || 'another',
    program.since,
    program.names.join(', '),
  ])
  const kept = block('workers', WORKERS, workers?.all, worker => {
    const { connections } = services.find(({ service }) => service === worker.service) ?? {}
    const { index, service, phase, pid, generation, restarts, lastFailure } = worker
    return [
      index,
      service,
      phase,
      pid ?? undefined,
      generation,
      connections,
      restarts,
      lastFailure ?? undefined,
    ]
  })
  const blocks = [
    [...knownLines(head), ...kept, ...claims],
    ...services.map(service => shownLines(service, now)),
  ]
  return `${blocks.map(lines => lines.join('\n')).join('\n\n')}\n`
}

/** Returns the lines of one service of several. A faulty member of one service must not hide the others. */
function shownLines(report: ServiceStatus, now: number): string[] {
  try {
    return serviceLines(report, now)
  } catch {
    return facts([
      ['service', plain(report.service)],
      ['status', 'its member sent one that cannot be shown: see fd-broker status --json'],
    ])
  }
}

function serviceLines(report: ServiceStatus, now: number): string[] {
  return [
    ...knownLines(headline(report, now)),
    ...block(
      'draining',
      ['GENERATION', 'PID', 'PHASE', 'CONNECTIONS', 'KINDS', 'MOVES'],
      report.draining,
      older => [
        older.generation,
        older.pid,
        phaseOf(older),
        older.connections,
        kindsOf(older.kinds),
        movesLine(older.moves),
      ],
    ),
    ...block(
      'listeners',
      ['NAME', 'ADDRESS', 'ACCEPTING', 'CONNECTIONS', 'KINDS'],
      report.listeners,
      listener => [
        listener.name,
        withScheme(listener),
        listener.accepting === undefined ? undefined : acceptingText(listener),
        listener.connections,
        kindsOf(listener.kinds),
      ],
    ),
    ...block('servers out of use', ['UPSTREAM', 'SERVER', 'STATE', 'TRIED IN'], serversOut(report), out => [
      out.upstream,
      out.server,
      out.state,
      triedIn(out),
    ]),
    ...block('source', ['SOURCE', 'REVISION', 'REFUSED', 'FAILURE'], sourceRows(report), source => [
      source.source,
      source.revision ?? '-',
      source.refusedCount,
      source.failure?.message ?? '',
    ]),
    ...block('refused entries of the source', ['KEY', 'REASON'], refusedEntries(report), entry => entry),
    ...block('sections', ['NAME', 'VERSION', 'ENTRIES', 'DIGEST'], report.sections, section => [
      section.name,
      section.version,
      section.entries,
      short(section.digest),
    ]),
  ]
}

function serversOut({ details }: ServiceStatus): readonly Record<string, unknown>[] | undefined {
  const out = details?.serversOut
  return Array.isArray(out) ? out.filter(one => typeof one === 'object' && one !== null) : undefined
}

function triedIn({ triedInSeconds, reason }: Readonly<Record<string, unknown>>): unknown {
  if (triedInSeconds == null) return reason
  const duration = formatDuration(Number(triedInSeconds))
  return reason === undefined ? duration : `${duration} (${reason})`
}

function sourceRows({ details }: ServiceStatus): readonly Partial<SourceStatus>[] | undefined {
  const source = details?.source
  return typeof source === 'object' && source !== null ? [source] : undefined
}

function leavingLine({ details }: ServiceStatus): string | null {
  const { leaving = 'serving' } = details ?? {}
  return leaving === 'serving'
    ? null
    : `this machine leaves it (${plain(leaving)}), until fd-broker drain --undo`
}

function connectionsLine({ connections, draining = [] }: ServiceStatus): string | null {
  const older = draining.reduce((sum, { connections: left = 0 }) => sum + left, 0)
  return cellOf(connections, own => (older > 0 ? `${own}, and ${older} in older versions` : `${own}`))
}

function refusedEntries(report: ServiceStatus): [key: string, reason: string][] {
  return Object.entries(sourceRows(report)?.[0]?.refused ?? {})
}

/** A proxy without metrics counts no requests. */
function requestsLine({ details }: ServiceStatus): string | null {
  const { perSecond, failed, p99Ms } = (details?.requests ?? {}) as Partial<RecentRequests>
  if (typeof perSecond !== 'number') return null
  const slowest = typeof p99Ms === 'number' ? `, 99% within ${plain(p99Ms)} ms` : ''
  return `${Math.round(perSecond)}/s, ${plain(failed)} failed${slowest} (the last seconds)`
}

function phaseOf({ phase, unfit, keptBy }: NonNullable<ServiceStatus['draining']>[number]): unknown {
  if (unfit) return `${phase}, cannot come back (${unfit.code})`
  return keptBy ? `${phase}, kept by ${plain(keptByText(keptBy))}` : phase
}

function acceptingText({ accepting, fault }: NonNullable<ServiceStatus['listeners']>[number]): string {
  return accepting ? 'yes' : fault ? `NO: ${plain(fault)}` : 'no'
}

function kindsOf(kinds: Readonly<Record<string, number>> | undefined): string {
  return Object.entries(kinds ?? {})
    .map(([kind, count]) => `${count} ${plain(kind)}`)
    .join(', ')
}

function withScheme({ address, scheme }: NonNullable<ServiceStatus['listeners']>[number]): unknown {
  return scheme ? `${plain(address)} (${plain(scheme)})` : address
}

function headline(report: ServiceStatus, now: number): [string, string | null][] {
  return [
    ['service', plain(report.service)],
    ['generation', cellOf(report.generation)],
    ['pid', report.pid === null ? 'none: no process serves' : cellOf(report.pid)],
    ['epoch', cellOf(report.epoch)],
    ['role', cellOf(report.role)],
    ['handoff', phaseLine(report)],
    [
      'control',
      cellOf(report.control, control => `${control}${report.hosting ? ` (${report.hosting})` : ''}`),
    ],
    ['uptime', uptime(report, now)],
    ['connections', connectionsLine(report)],
    ['requests', requestsLine(report)],
    ['balancer', leavingLine(report)],
    ['moves', movesLine(report.moves)],
    ['closed', closedLine(report.closed)],
    ['held', report.held?.length ? report.held.map(plain).join(', ') : null],
    ['state', stateLine(report)],
    ['state file', fileLine(report)],
    ['memory', cellOf(report.rssBytes, size)],
    ['open fds', cellOf(report.openFds)],
    ...supervisorLines(report, now),
    ['next version', nextLine(report)],
    ['last failure', failureLine(report)],
    ['blocked by', blockedLine(report)],
    ['application', errorsLine(report)],
    ['standby', standbyLine(report)],
    ['output', outputLine(report)],
    ['unfit', unfitLine(report)],
  ]
}

function knownLines(lines: readonly [string, string | null][]): string[] {
  return facts(lines.flatMap(([name, value]) => (value === null ? [] : [[name, coloured(name, value)]])))
}

/** Names of the lines that a terminal shows in red. */
const FAULTS: ReadonlySet<string> = new Set([
  'crash loop',
  'unfit',
  'standby',
  'blocked by',
  'application',
  'output',
])

function coloured(name: string, value: string): string {
  if (name === 'role' && value === 'serving') return style('green', value)
  if (FAULTS.has(name) || /^UNHEALTHY|CANNOT BE WRITTEN|^none: /.test(value)) return style('red', value)
  return name === 'last failure' && !value.startsWith('OLD') ? style('yellow', value) : value
}

function uptime({ uptimeSeconds, processStartedAt }: ServiceStatus, now: number): string | null {
  const parts: string[] = []
  if (uptimeSeconds !== undefined) parts.push(`service ${formatDuration(uptimeSeconds)}`)
  const started = since(processStartedAt, now)
  if (started !== null) parts.push(`process ${started}`)
  return parts.length === 0 ? null : parts.join(', ')
}

function since(startedAt: string | undefined, now: number): string | null {
  const started = Date.parse(startedAt ?? '')
  return Number.isNaN(started) ? null : formatDuration(Math.max(0, now - started) / 1000)
}

function stateLine({ state, segments, logBytes }: ServiceStatus): string | null {
  // A member in another language may send only a part of `state`; the daemon knows the segments.
  const {
    entries,
    bytes = logBytes,
    segments: count = segments,
    sequence,
    digest,
  } = (state ?? {}) as Partial<NonNullable<ServiceStatus['state']>>
  const parts = [
    cellOf(entries, number => (number === 1 ? '1 entry' : `${number} entries`)),
    cellOf(count, number => `${size(bytes)} in ${number} ${number === 1 ? 'segment' : 'segments'}`),
    cellOf(sequence, number => `sequence ${number}`),
    cellOf(digest, text => `digest ${short(text)}`),
  ].filter(part => part !== null)
  return parts.length === 0 ? null : parts.join(', ')
}

function fileLine({ state }: ServiceStatus): string | null {
  const file = state?.file
  if (!file) return null
  const { path, ok, lastError, behindBytes, sequence, syncedSequence } = file
  const there = `sequence ${plain(sequence)}, on the disk ${plain(syncedSequence)}`
  if (ok) return `${plain(path)}, ${there}${behindBytes > 0 ? `, ${size(behindBytes)} behind` : ''}`
  return `${plain(path)} CANNOT BE WRITTEN, ${size(behindBytes)} are only in memory (${there}): ${plainLines(lastError?.message ?? '')}`
}

function movesLine(moves: MoveReport | undefined): string | null {
  if (moves === undefined) return null
  const { moved, arrived, lost, refused, wave } = moves
  const parts = [
    ...(arrived > 0 ? [`${arrived} arrived`] : []),
    ...(moved > 0 ? [`${moved} moved${wave === 'first' ? ' (the first few)' : ''}`] : []),
    ...(lost > 0 ? [`${lost} lost`] : []),
    ...Object.entries(refused ?? {}).map(([code, count]) => `${count} stay (${code})`),
  ]
  return parts.length === 0 ? null : plain(parts.join(', '))
}

function closedLine(closed: ServiceStatus['closed']): string | null {
  if (!closed?.length) return null
  return plain(closed.map(({ kind, reason, count }) => `${count} ${kind} (${reason})`).join(', '))
}

function phaseLine(report: ServiceStatus): string | null {
  const { phase, probationSeconds } = report
  // Under `fd-broker run` another line shows the probation.
  const left = 'supervisor' in report ? '' : leftOf(probationSeconds)
  return cellOf(phase, text => `${text}${left}`)
}

function leftOf(probationSeconds: number | null | undefined): string {
  return typeof probationSeconds === 'number' ? `, ${formatDuration(probationSeconds)} left` : ''
}

/** Lines about the supervisor of `fd-broker run`, a separate process. */
function supervisorLines(report: ServiceStatus, now: number): [string, string | null][] {
  const { supervisor } = report as Partial<SupervisorStatus>
  if (supervisor === undefined) return []
  const { pid, rssBytes, loops, failures, exits, again, before } = supervisor
  const last = exits?.last?.at(-1)
  const ended =
    last === undefined
      ? null
      : `${timesText(exits.count)}; generation ${plain(last.generation)} (pid ${plain(last.pid)}) last, ${exitText(last.code)}, ${formatDuration((now - last.at) / 1000)} ago, after ${formatDuration(last.seconds)}`
  return [
    [
      'serves again',
      cellOf(again, id => `generation ${id}, started again as generation ${report.generation}`),
    ],
    ['probation', cellOf(report.probationSeconds, seconds => `${formatDuration(Number(seconds))} left`)],
    ['health', healthLine(supervisor)],
    ['rollback to', cellOf(before, id => `generation ${id} (fd-broker rollback)`)],
    ['supervisor', `pid ${plain(pid)}, ${size(rssBytes)}`],
    ['crashed', ended],
    ['crash loop', loops ? `${plain(failures)} ends or failures in a row` : null],
  ]
}

function healthLine({ healthy, complaint }: SupervisorStatus['supervisor']): string | null {
  if (healthy === null || healthy === undefined) return null
  const last = cellOf(complaint)
  if (!healthy) return `UNHEALTHY: ${last ?? 'the health check fails'}`
  return last === null ? 'good' : `good, but the last check failed: ${last}`
}

function exitText(code: number): string {
  return code > 128 ? `by signal ${code - 128}` : `with code ${plain(code)}`
}

function failureLine(report: ServiceStatus): string | null {
  const { lastFailure } = report
  if (lastFailure === undefined || lastFailure === null) return null
  const { code, phase, at, message } = lastFailure
  const when = Number.isFinite(at) ? ` at ${new Date(at).toISOString()}` : ''
  const age = isOld(report) ? 'OLD (a version has started to serve after it): ' : ''
  const log = failedLogOf(report)
  return `${age}${plain(code)} in phase ${plain(phase)}${when}: ${withLog(message, log === null ? null : `its log is ${plain(log)}`)}`
}

/** Returns a failure's message and, after it, the place of the log; behind a message of several lines in a line of its own. */
function withLog(message: string, log: string | null): string {
  const text = plainLines(message)
  return log === null ? text : `${text}${text.includes('\n') ? '\n' : '; '}${log}`
}

/** Returns the log of the version that failed; null if the last failure is that of a version that has not served. */
function failedLogOf({ lastFailure, details }: ServiceStatus): string | null {
  const { failedLog } = details ?? {}
  return lastFailure && isCommitted(lastFailure.phase) && typeof failedLog === 'string' ? failedLog : null
}

function nextLine({ upgrade }: ServiceStatus): string | null {
  if (!upgrade) return null
  const { pid, phase, missing } = upgrade
  return `process ${plain(pid)}, phase ${plain(phase)}${missing ? `: ${plain(missing)}` : ''}`
}

/** Returns the text about a last upgrade whose version has served and failed, with its log; null if there is none. */
export function failedUpgradeText(report: ServiceStatus): string | null {
  const { lastFailure } = report
  const log = failedLogOf(report)
  // A rollback by an operator is no failure.
  if (log === null || !lastFailure || lastFailure.code === 'ERR_FDB_SUCCESSOR_LEFT' || isOld(report))
    return null
  return `the last upgrade failed: ${withLog(lastFailure.message, `the log of that version is ${plain(log)}`)}`
}

function blockedLine({ blockedBy }: ServiceStatus): string | null {
  if (!blockedBy?.length) return null
  return `${blockedBy.map(pid => `pid ${plain(pid)}`).join(', ')} (may still live: the next upgrade waits until it has ended)`
}

/** Reports a standby that could not take over if the serving process failed. */
function standbyLine({ draining }: ServiceStatus): string | null {
  const standby = draining?.find(({ phase, unfit }) => phase === 'standby' && unfit)
  if (!standby?.unfit) return null
  const { code, message } = standby.unfit
  return `no process can take over: process ${plain(standby.pid)} stands by, and cannot write: ${codeAndMessage({ code, message })}`
}

function unfitLine({ unfit }: ServiceStatus): string | null {
  if (!unfit) return null
  return `it answers from its memory and CANNOT WRITE: ${codeAndMessage(unfit)}`
}

function timesText(count: number): string {
  return count === 1 ? 'once' : `${plain(count)} times`
}

function errorsLine({ applicationErrors }: ServiceStatus): string | null {
  if (!applicationErrors) return null
  return `its event listeners threw ${timesText(applicationErrors)}: see the log`
}

function outputLine({ droppedOutput, details }: ServiceStatus): string | null {
  if (!droppedOutput) return null
  const why =
    typeof details?.log === 'string'
      ? 'the process that writes its log has ended; the next version has a new one'
      : 'its terminal is closed, or its pipe has no reader'
  return `${plain(droppedOutput)} writes were dropped: ${why}`
}

function block<T>(
  title: string,
  head: readonly string[],
  items: readonly T[] | undefined,
  cells: (item: T) => readonly unknown[],
): string[] {
  if (!items?.length) return []
  return ['', style('bold', title), ...table(head, items.map(cells)).map(line => `  ${line}`)]
}

function cellOf<T>(value: T | null | undefined, show: (value: T) => string = String): string | null {
  return value === undefined || value === null ? null : plain(show(value))
}

function short(digest: unknown): string {
  return plain(digest).slice(0, DIGEST_SHOWN)
}

function size(bytes: number | undefined): string {
  if (bytes === undefined || !Number.isFinite(bytes)) return '-'
  if (bytes < 1024) return `${bytes} B`
  if (bytes < 1024 ** 2) return `${(bytes / 1024).toFixed(1)} KiB`
  if (bytes < 1024 ** 3) return `${(bytes / 1024 ** 2).toFixed(1)} MiB`
  return `${(bytes / 1024 ** 3).toFixed(1)} GiB`
}

/** Roles of a process that does not serve. */
const NOT_SERVING: ReadonlySet<string | undefined> = new Set([
  'joining',
  'ready',
  'spawning',
  'starting',
  'waiting',
  'gone',
])

/** Why a service is unhealthy, and the exit code of `fd-broker status` for it. */
interface Illness {
  readonly code: ExitCode
  readonly why: string
}

/** Returns the worst illness of the services; null if a process serves each service, and no program crashes repeatedly. */
export function illnessOf(answer: StatusAnswer): Illness | null {
  const services: readonly ServiceStatus[] = isDaemon(answer) ? answer.services : [answer]
  const all = services.flatMap(service => illness(service) ?? [])
  return all.find(({ code }) => code === 3) ?? all[0] ?? null
}

function illness(report: ServiceStatus): Illness | null {
  const { pid, role, service } = report
  const { supervisor } = report as Partial<SupervisorStatus>
  const loops = supervisor?.loops ? `: its program ended or failed ${supervisor.failures} times in a row` : ''
  if (pid === null || NOT_SERVING.has(role)) {
    const state = role === undefined || pid === null ? '' : ` (it is ${plain(role)})`
    return { code: 3, why: `no process serves ${plain(service)}${state}${loops}` }
  }
  return loops === '' ? null : { code: 1, why: `${plain(service)} crashes repeatedly${loops}` }
}

/** Marks each last failure that is older than the serving version. */
export function withAges(answer: StatusAnswer): StatusAnswer {
  if (isDaemon(answer)) return { ...answer, services: answer.services.map(withAge) }
  return withAge(answer)
}

function withAge(report: ServiceStatus): ServiceStatus {
  const { lastFailure } = report
  if (!lastFailure) return report
  try {
    return { ...report, lastFailure: { ...lastFailure, old: isOld(report) } }
  } catch {
    // The member sent something else than a time.
    return report
  }
}

/** Whether a version started to serve after the last failure. */
function isOld(report: ServiceStatus): boolean {
  // The failure is not old: an earlier version was started again because of it.
  if (typeof (report as Partial<SupervisorStatus>).supervisor?.again === 'number') return false
  const { lastFailure, processStartedAt, handoffs } = report
  const at = lastFailure?.at ?? Number.NaN
  const served = handoffs?.some(
    ({ outcome, phases }) =>
      (outcome === 'serving' || outcome === 'released') && (phases.at(-1)?.at ?? 0) > at,
  )
  return served === true || Date.parse(processStartedAt ?? '') > at
}
