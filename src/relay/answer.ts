import { type FieldEdits, fieldLine, reasonOf } from '../http1/index.js'
import type { Respond } from './decision.js'
import type { ExchangeFacts } from './exchange-facts.js'
import type { RelayContext } from './relay-context.js'

interface AnswerOptions {
  /** The answer to HEAD carries no body. */
  head: boolean
  connection: 'close' | 'keep-alive' | undefined
  edits: FieldEdits | undefined
}

/** Fields that follow from the answer itself. */
const OWN = new Set(['content-length', 'transfer-encoding', 'connection', 'date', 'upgrade', 'trailer'])

/** A whole answer that was made here, as latin1 text. Throws for fields that cannot be written. */
function answerText(answer: Respond, options: AnswerOptions): string {
  const { status } = answer
  const body = typeof answer.body === 'string' ? Buffer.from(answer.body) : (answer.body ?? Buffer.alloc(0))
  let text = `HTTP/1.1 ${status} ${reasonOf(status)}\r\nDate: ${new Date().toUTCString()}\r\n`
  for (const [name, value] of answer.headers ?? [])
    if (!OWN.has(name.toLowerCase())) text += fieldLine(name, value)
  text += options.edits?.rest([]) ?? ''
  const bodyless = status === 204 || status === 304
  if (!bodyless) text += `Content-Length: ${body.length}\r\n`
  if (options.connection !== undefined) text += `Connection: ${options.connection}\r\n`
  return bodyless || options.head ? `${text}\r\n` : `${text}\r\n${body.toString('latin1')}`
}

/** As it goes to the client. */
export interface WrittenAnswer {
  readonly status: number
  readonly text: string
  /** Why it is another one than was to be given. */
  readonly reason?: string
}

/** The answer to what the facts say of a request; a 500 where its fields cannot be written. */
export function writtenAnswer(answer: Respond, facts: ExchangeFacts, relay: RelayContext): WrittenAnswer {
  const options: AnswerOptions = {
    head: facts.method === 'HEAD',
    connection: facts.closeClient ? 'close' : facts.http10 ? 'keep-alive' : undefined,
    edits: relay.fields.response(),
  }
  try {
    return { status: answer.status, text: answerText(answer, options) }
  } catch (error) {
    relay.onFault?.(error)
    const reason = 'answer-invalid'
    return { status: 500, text: answerText(errorAnswer(500, reason), options), reason }
  }
}

/** The answer that tells why a request is not served. */
export function errorAnswer(status: number, reason: string, headers: Respond['headers'] = []): Respond {
  return {
    kind: 'respond',
    status,
    headers: [['Content-Type', 'text/plain'], ...headers],
    body: `${reason}\n`,
  }
}
