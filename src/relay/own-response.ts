import { type FieldEdits, fieldLine, reasonOf } from '../http1/index.js'
import { NO_BYTES } from './bytes.js'
import type { Respond } from './decision.js'
import type { ExchangeFacts } from './exchange-facts.js'
import { callSafely, type RelayContext } from './relay-context.js'

interface ResponseOptions {
  toHead: boolean
  connection: 'close' | 'keep-alive' | undefined
  edits: FieldEdits | undefined
}

/** Fields that the relay sets in its own responses; it ignores those of {@link Respond.headers}. */
const RELAY_FIELDS = new Set([
  'content-length',
  'transfer-encoding',
  'connection',
  'date',
  'upgrade',
  'trailer',
])

/** Returns the whole response as latin1 text. Throws if a field is invalid. */
function responseText(response: Respond, options: ResponseOptions): string {
  const { status } = response
  const body = typeof response.body === 'string' ? Buffer.from(response.body) : (response.body ?? NO_BYTES)
  let text = `HTTP/1.1 ${status} ${reasonOf(status)}\r\nDate: ${new Date().toUTCString()}\r\n`
  const { headers = [] } = response
  const { edits } = options
  for (const [name, value] of headers)
    if (!RELAY_FIELDS.has(name.toLowerCase())) text += fieldLine(name, value)
  if (edits !== undefined) {
    // A field of the response itself overrides the one of every response.
    const own = headers.flatMap(([name]) => edits.find(Buffer.from(name, 'latin1'), 0, name.length) ?? [])
    text += edits.unplacedLines(own)
  }
  const bodyless = status === 204 || status === 304
  if (!bodyless) text += `Content-Length: ${body.length}\r\n`
  if (options.connection !== undefined) text += `Connection: ${options.connection}\r\n`
  return bodyless || options.toHead ? `${text}\r\n` : `${text}\r\n${body.toString('latin1')}`
}

/** Returns the text of the relay's own response; if a field is invalid, a 500 with a `reason`. */
export function buildResponse(
  response: Respond,
  facts: ExchangeFacts,
  relay: RelayContext,
): { status: number; text: string; reason?: string } {
  const options: ResponseOptions = {
    toHead: facts.method === 'HEAD',
    connection: facts.closeClient ? 'close' : facts.http10 ? 'keep-alive' : undefined,
    edits: relay.fields.response(),
  }
  try {
    return { status: response.status, text: responseText(response, options) }
  } catch (error) {
    relay.onFault?.(error)
    const reason = 'answer-invalid'
    return {
      status: 500,
      text: responseText(errorResponse({ status: 500, reason }, [], facts, relay), options),
      reason,
    }
  }
}

/** Returns the relay's response to an error. The body is that of {@link RelayContext.errorBody}, or else the reason. */
export function errorResponse(
  { status, reason }: { readonly status: number; readonly reason: string },
  headers: NonNullable<Respond['headers']>,
  { trail }: ExchangeFacts,
  relay: RelayContext,
): Respond {
  const page = callSafely(relay, () =>
    relay.errorBody?.({ status, reason, requestId: trail?.requestId ?? '' }),
  )
  const { type, body } = page ?? { type: 'text/plain', body: `${reason}\n` }
  return { kind: 'respond', status, headers: [['Content-Type', type], ...headers], body }
}
