import type { Logger } from '../index.js'
import type { ExchangeReport } from '../relay/index.js'
import type { AccessLineConfig } from './config/access-line.js'
import { encodeNonAscii } from './routes/variables.js'

/** Gets the access log. `line`, if it has one, gets lines that are not JSON. */
export interface AccessSink extends Pick<Logger, 'info'> {
  line?(text: string): void
}

/** Logs one line for a request, a TCP connection or a flow of datagrams. Omits unknown fields. */
export function logAccess(log: AccessSink, report: ExchangeReport, config: AccessLineConfig): void {
  const { format, fields } = config
  if (report.subject === 'authorization' || report.unlogged) return
  const message = MESSAGES[report.subject] ?? 'request'
  if (format !== 'json') {
    const text = commonLine(report, format === 'combined', Date.now())
    if (log.line) log.line(text)
    else log.info({}, text)
  } else if (fields.length === 0) log.info(usualFields(report), message)
  else log.info(chosenFields(report, fields), message)
}

/** The messages of lines about something else than a request. */
const MESSAGES: Partial<Record<ExchangeReport['subject'], string>> = { tcp: 'connection', udp: 'flow' }

function usualFields(report: ExchangeReport) {
  const { subject, listener, client, user, method, target, host, status, reason, destination, attempts } =
    report
  const { bytesSent, bytesReceived } = report
  const isWhole = MESSAGES[subject] !== undefined
  return {
    listener,
    client: client || undefined,
    user: user || undefined,
    protocol: report.http2 ? 'HTTP/2' : undefined,
    method: method || undefined,
    host: host || undefined,
    target: encodeNonAscii(target) || undefined,
    status: isWhole ? undefined : status,
    reason,
    upstream: destination,
    attempts: attempts > 1 ? attempts : undefined,
    bytes: bytesSent,
    received: isWhole ? bytesReceived : undefined,
    ms: tenths(report.milliseconds),
  }
}

function chosenFields(report: ExchangeReport, fields: readonly string[]): Record<string, unknown> {
  const { trail } = report
  const time = (ms: number | undefined) => (ms === undefined || ms < 0 ? undefined : tenths(ms))
  const all: Record<string, unknown> = {
    ...usualFields(report),
    version: versionOf(report),
    queueMs: time(trail?.queueMs),
    connectMs: time(trail?.connectMs),
    firstByteMs: time(trail?.firstByteMs),
    auth: trail?.auth || undefined,
    authMs: time(trail?.authMs),
    requestId: trail?.requestId || undefined,
    traceId: trail?.traceId || undefined,
  }
  const chosen: Record<string, unknown> = {}
  for (const name of fields) chosen[name] = name.startsWith(HEADER) ? headerOf(report, name) : all[name]
  return chosen
}

const HEADER = 'header:'

/** The header `name` of the request, which begins with {@link HEADER}. */
function headerOf({ trail }: ExchangeReport, name: string): string | undefined {
  const value = trail?.headers[name.slice(HEADER.length).toLowerCase()]
  return value === undefined ? undefined : encodeNonAscii(value)
}

function tenths(ms: number): number {
  return Math.round(ms * 10) / 10
}

function versionOf({ subject, http2, http10 }: ExchangeReport): string | undefined {
  if (subject !== 'request') return undefined
  return http2 ? 'HTTP/2.0' : http10 ? 'HTTP/1.0' : 'HTTP/1.1'
}

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']

/** Returns a line of the Common, or of the Combined Log Format. `now`: when the exchange has ended. */
export function commonLine(report: ExchangeReport, combined: boolean, now: number): string {
  const { subject, client, user, method, target, status, bytesSent, milliseconds } = report
  const began = new Date(now - milliseconds)
  const [date = '', time = ''] = began.toISOString().split(/[T.]/)
  const day = `${date.slice(8)}/${MONTHS[began.getUTCMonth()]}/${date.slice(0, 4)}`
  const request = subject === 'request' ? `${method} ${target} ${versionOf(report)}` : '-'
  const code = MESSAGES[subject] === undefined ? status : '-'
  const line = `${client || '-'} - ${userWord(user)} [${day}:${time} +0000] "${escaped(request)}" ${code} ${bytesSent}`
  if (!combined) return line
  const header = (name: string) => escaped(report.trail?.headers[name] || '-')
  return `${line} "${header('referer')}" "${header('user-agent')}"`
}

/** A name may have any characters: one with a space would be two fields. */
function userWord(name: string): string {
  if (name === '') return '-'
  return escaped(Buffer.from(name).toString('latin1')).replaceAll(' ', '\\x20')
}

function escaped(text: string): string {
  return text.replace(/[^\x20-\x7e]|["\\]/g, character => {
    const code = character.charCodeAt(0)
    return `\\x${code.toString(16).toUpperCase().padStart(2, '0')}`
  })
}
