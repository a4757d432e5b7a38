import {
  Http1Refusal,
  type RefusalReason,
  type RequestHead,
  RequestReader,
  type ResponseHead,
  ResponseReader,
  writeRequest,
  writeResponse,
} from '../../src/http1/index.js'

/** The head at the beginning of `text` (latin1), which must be whole. */
export function readRequest(text: string): RequestHead {
  const head = new RequestReader().read(Buffer.from(text, 'latin1'))
  if (head === null) throw new Error(`the head is not finished: ${JSON.stringify(text)}`)
  return head
}

export function readResponse(text: string): ResponseHead {
  const head = new ResponseReader().read(Buffer.from(text, 'latin1'))
  if (head === null) throw new Error(`the head is not finished: ${JSON.stringify(text)}`)
  return head
}

export function rewriteRequest(...given: Parameters<typeof writeRequest>): string {
  return writeRequest(...given).toString()
}

export function rewriteResponse(...given: Parameters<typeof writeResponse>): string {
  return writeResponse(...given).toString()
}

/** A GET of / from host a with these further lines. */
export function requestWith(...lines: string[]): string {
  return ['GET / HTTP/1.1', 'Host: a', ...lines, '\r\n'].join('\r\n')
}

export function responseWith(...lines: string[]): string {
  return ['HTTP/1.1 200 OK', ...lines, '\r\n'].join('\r\n')
}

/** The refusal of the reading; fails without one. */
export function refusal(read: () => unknown): Http1Refusal {
  try {
    read()
  } catch (error) {
    if (error instanceof Http1Refusal) return error
    throw error
  }
  throw new Error('not refused')
}

/** Why such a request is refused, undefined if it is taken. */
export function requestReason(text: string): RefusalReason | undefined {
  return reasonOf(() => readRequest(text))
}

export function responseReason(text: string): RefusalReason | undefined {
  return reasonOf(() => readResponse(text))
}

function reasonOf(read: () => unknown): RefusalReason | undefined {
  try {
    read()
  } catch (error) {
    if (error instanceof Http1Refusal) return error.reason
    throw error
  }
  return undefined
}
