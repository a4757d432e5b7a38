import { STATUS_CODES } from 'node:http'
import { type FieldEdits, fieldLine } from '../http1/index.js'
import type { Respond } from './decision.js'

export interface AnswerOptions {
  /** The answer to HEAD carries no body. */
  head: boolean
  connection: 'close' | 'keep-alive' | undefined
  edits: FieldEdits | undefined
}

/** Fields that follow from the answer itself. */
const OWN = new Set(['content-length', 'transfer-encoding', 'connection', 'date', 'upgrade', 'trailer'])

/** A whole answer that was made here, as latin1 text. Throws for fields that cannot be written. */
export function answerText(answer: Respond, options: AnswerOptions): string {
  const { status } = answer
  const body = typeof answer.body === 'string' ? Buffer.from(answer.body) : (answer.body ?? Buffer.alloc(0))
  let text = `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\nDate: ${new Date().toUTCString()}\r\n`
  for (const [name, value] of answer.headers ?? [])
    if (!OWN.has(name.toLowerCase())) text += fieldLine(name, value)
  text += options.edits?.rest([]) ?? ''
  const bodyless = status === 204 || status === 304
  if (!bodyless) text += `Content-Length: ${body.length}\r\n`
  if (options.connection !== undefined) text += `Connection: ${options.connection}\r\n`
  return bodyless || options.head ? `${text}\r\n` : `${text}\r\n${body.toString('latin1')}`
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
