import { nodeCrypto } from '../base/lazy.js'
import { fieldLine, type RequestHead } from '../http1/index.js'

/** The notes that a relay makes about each request, and the headers by which servers can follow the request through several programs. */
export interface TrailOptions {
  /** Lower-case names of headers of the request. */
  readonly headers: readonly string[]
  /** The header that has the number of the request; null: none. A number of a trusted client is kept. */
  readonly requestId: string | null
  /** Passes the header `traceparent` (W3C Trace Context) on, and makes one for a request without. */
  readonly traceparent: boolean
}

const TRACE_HEADERS = ['traceparent', 'tracestate']
const REQUEST_ID = /^[\x21-\x7e]{1,128}$/
/** A later version may have more parts. */
const TRACEPARENT =
  /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[!-+\--~]*)?$/
const TRACE_BYTES = 16
const PARENT_BYTES = 8

/** Returns the headers that the relay writes instead of the client. */
export function trailHeaders({ requestId, traceparent }: TrailOptions): string[] {
  return [...(requestId === null ? [] : [requestId]), ...(traceparent ? TRACE_HEADERS : [])]
}

/** The notes about one request. Moves to another process with it. Times in milliseconds, -1 before they are known. */
export class Trail {
  requestId = ''
  traceId = ''
  /** How long the request has waited for a server that is free. */
  queueMs = -1
  /** From the first attempt to connect to a server until one was reached; if another server got the request later, of that one; -1 also if a kept connection was used. */
  connectMs = -1
  /** From the start of the exchange to the first byte of the server. */
  firstByteMs = -1
  /** The decision of a service of authorization, or why there is none; '' if none was asked. */
  auth = ''
  authMs = -1
  /** Has no prototype, whose members (`constructor`) could be names of headers. */
  headers: Record<string, string> = { __proto__: null } as never
  /** When the current wait or the first attempt to connect began, in milliseconds of `performance.now()`. */
  since = 0
  /** Further lines of the request for the server. */
  readonly lines: string

  constructor(lines = '') {
    this.lines = lines
  }

  /** A server is free for the request, or the wait for one has ended otherwise. */
  waited(): void {
    this.queueMs = Math.max(0, this.queueMs) + performance.now() - this.since
    this.since = 0
  }

  authorized({
    kind,
    ms,
    why = kind,
  }: {
    readonly kind: string
    readonly ms: number
    readonly why?: string
  }): void {
    this.auth = why
    this.authMs = ms
  }

  /** A connection to a server is established. */
  connected(): void {
    if (this.since === 0) return
    this.connectMs = performance.now() - this.since
    this.since = 0
  }
}

/** `trusted`: see `ForwardedOptions.trusts`. */
export function beginTrail(
  { fields }: RequestHead,
  trusted: boolean,
  { headers, requestId, traceparent }: TrailOptions,
): Trail {
  const [id, idLine] = requestId === null ? ['', ''] : identified(requestId, trusted, fields)
  const [traceId, traceLines] = traceparent ? traced(fields) : ['', '']
  const trail = new Trail(idLine + traceLines)
  trail.requestId = id
  trail.traceId = traceId
  for (const name of headers) {
    const value = fields.get(name)
    if (value !== undefined) trail.headers[name] = value
  }
  return trail
}

function identified(
  name: string,
  trusted: boolean,
  fields: RequestHead['fields'],
): [id: string, line: string] {
  const given = trusted ? fields.get(name) : undefined
  const id = given !== undefined && REQUEST_ID.test(given) ? given : nodeCrypto().randomUUID()
  return [id, fieldLine(name, id)]
}

/** A `tracestate` belongs to its `traceparent`, so one without is dropped. */
function traced(fields: RequestHead['fields']): [traceId: string, lines: string] {
  const given = fields.get('traceparent') ?? ''
  const [, traceId] = TRACEPARENT.exec(given) ?? []
  if (traceId !== undefined) {
    const state = withoutEmptyEnds(fields.get('tracestate') ?? '')
    return [traceId, fieldLine('traceparent', given) + (state === '' ? '' : fieldLine('tracestate', state))]
  }
  const random = nodeCrypto()
    .randomBytes(TRACE_BYTES + PARENT_BYTES)
    .toString('hex')
  const own = random.slice(0, 2 * TRACE_BYTES)
  return [own, fieldLine('traceparent', `00-${own}-${random.slice(2 * TRACE_BYTES)}-01`)]
}

/** Removes what empty lines leave at the ends, where all lines of a header are joined. */
function withoutEmptyEnds(value: string): string {
  const isEmpty = (at: number) => ' \t,'.includes(value.charAt(at))
  let from = 0
  let to = value.length
  while (from < to && isEmpty(from)) from++
  while (from < to && isEmpty(to - 1)) to--
  return value.slice(from, to)
}
