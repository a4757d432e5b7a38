import { createRequire } from 'node:module'
import type { Input, Message, Transcript } from './transcript.js'

/**
 * Node's own parser, strict as http.Server uses it: the native class behind `http`, because through http.Server itself
 * neither responses nor the exact bytes can be compared.
 */
interface NativeParser {
  [callback: number]: (...values: never[]) => unknown
  initialize(type: number, resource: object, maxHeaderSize: number, lenientFlags: number): void
  execute(bytes: Buffer): number | (Error & { code: string })
  finish(): undefined | (Error & { code: string })
}

interface NativeParserClass {
  new (): NativeParser
  REQUEST: number
  RESPONSE: number
  kOnMessageBegin: number
  kOnHeaders: number
  kOnHeadersComplete: number
  kOnBody: number
  kOnMessageComplete: number
}

const { HTTPParser, methods } = createRequire(import.meta.url)('node:_http_common') as {
  HTTPParser: NativeParserClass
  methods: string[]
}

/** The methods that Node's parser knows; it refuses all others. */
export const NODE_METHODS: ReadonlySet<string> = new Set(methods)

const NO_BODY = 1

export function readWithNode(input: Input): Transcript {
  const messages: Message[] = []
  let current: (Message & { headDone: boolean }) | null = null
  let hostMissing = false
  const parser = new HTTPParser()
  parser.initialize(input.side === 'request' ? HTTPParser.REQUEST : HTTPParser.RESPONSE, {}, 0, 0)

  function open(): Message & { headDone: boolean } {
    current ??= {
      start: '',
      minor: 1,
      fields: [],
      keepAlive: true,
      tunnel: false,
      body: '',
      trailers: [],
      headDone: false,
    }
    return current
  }
  function stillOpen(): boolean {
    return current !== null
  }
  parser[HTTPParser.kOnMessageBegin | 0] = () => {
    open()
  }
  parser[HTTPParser.kOnHeaders | 0] = (flat: string[], url: string) => {
    const message = open()
    if (message.headDone) message.trailers.push(...lines(flat))
    else {
      message.fields.push(...lines(flat))
      message.start += url
    }
  }
  parser[HTTPParser.kOnHeadersComplete | 0] = (
    _major: number,
    minor: number,
    flat: string[] | null,
    method: number,
    url: string | null,
    status: number,
    reason: string,
    upgrade: boolean,
    keepAlive: boolean,
  ) => {
    const message = open()
    message.fields.push(...lines(flat ?? []))
    message.start =
      input.side === 'request' ? `${methods[method]} ${message.start}${url ?? ''}` : `${status} ${reason}`
    Object.assign(message, { minor, keepAlive, tunnel: upgrade, headDone: true })
    // The checks that http.Server adds to its parser.
    if (input.side === 'request' && minor === 1)
      hostMissing ||= !message.fields.some(line => /^host: /i.test(line))
    return input.side === 'response' && input.method === 'HEAD' ? NO_BODY : 0
  }
  parser[HTTPParser.kOnBody | 0] = (bytes: Buffer) => {
    open().body += bytes.toString('latin1')
  }
  parser[HTTPParser.kOnMessageComplete | 0] = () => {
    if (hostMissing) return
    const { headDone: _, ...message } = open()
    messages.push(message)
    current = null
  }

  const bytes = Buffer.from(input.text, 'latin1')
  const result = parser.execute(bytes)
  const failed = result instanceof Error ? result : parser.finish()
  if (hostMissing) return { messages, verdict: 'refused', reason: 'no Host' }
  const last = messages.at(-1)
  // Node's parser keeps its errors to itself once a message asks for an upgrade.
  const hidden = typeof result === 'number' && result < bytes.length && (stillOpen() || !last?.tunnel)
  if (hidden) return { messages, verdict: 'refused', reason: 'hidden by Upgrade' }
  if (last?.tunnel && !stillOpen()) return { messages, verdict: 'complete', left: 'tunnel' }
  if (last && !last.keepAlive && (failed === undefined || failed.code === 'HPE_CLOSED_CONNECTION')) {
    return { messages, verdict: 'complete', left: 'closing' }
  }
  if (failed === undefined) return { messages, verdict: current === null ? 'complete' : 'incomplete' }
  if (failed.code === 'HPE_INVALID_EOF_STATE') return { messages, verdict: 'incomplete' }
  return { messages, verdict: 'refused', reason: failed.code }
}

function lines(flat: string[]): string[] {
  const found: string[] = []
  for (let i = 0; i < flat.length; i += 2) found.push(`${flat[i]}: ${flat[i + 1]}`)
  return found
}
