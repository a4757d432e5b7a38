import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls'
import { onTestFinished } from 'vitest'
import { until } from './until.js'

export interface TlsAnswer {
  readonly socket: TLSSocket
  readonly text: string
  /** The session was made before, in another connection. */
  readonly reused: boolean
  /** To be resumed by a later connection. */
  readonly session: Buffer
  /** Common name of the server's certificate. Empty where a session was resumed. */
  readonly certificate: string
}

/** Connects, asks for `path`, and waits for the answer and, where one is due, for a session. */
export async function askTls(
  port: number,
  options: ConnectionOptions & { path?: string } = {},
): Promise<TlsAnswer> {
  const { path = '/whoami', ...rest } = options
  const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...rest })
  onTestFinished(() => void socket.destroy())
  let failure: Error | null = null
  let session: Buffer | undefined
  let text = ''
  socket.on('error', error => (failure = error))
  socket.on('session', made => (session = made))
  socket.setEncoding('latin1').on('data', chunk => (text += chunk))
  socket.write(`GET ${path} HTTP/1.1\r\nHost: ${rest.servername || 'a'}\r\n\r\n`)
  await until('the answer comes over TLS', () => {
    if (failure !== null) throw failure
    return text.includes('\r\n\r\n')
  })
  const reused = socket.isSessionReused()
  session ??= socket.getSession()
  const certificate = String(socket.getPeerCertificate()?.subject?.CN ?? '')
  return { socket, text, reused, session: session!, certificate }
}

/** A client of HTTP over one connection, which it keeps. */
export class TlsClient {
  readonly socket: TLSSocket
  #text = ''
  /** In hexadecimal. */
  readonly secrets: string[] = []
  asked = 0

  constructor(port: number, options: ConnectionOptions = {}) {
    this.socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...options })
    this.socket.setEncoding('latin1').on('data', text => {
      this.#text += text
    })
    this.socket.on('error', () => {})
    this.socket.on('keylog', (line: Buffer) => this.secrets.push(`${line}`.trim().split(' ')[2]!))
    onTestFinished(() => void this.socket.destroy())
  }

  get isClosed(): boolean {
    return this.socket.destroyed || this.socket.readableEnded
  }

  /** Resolves with the body. */
  async ask(path: string): Promise<string> {
    return (await this.answer(path)).body
  }

  async answer(path: string): Promise<{ head: string; body: string }> {
    this.#text = ''
    this.socket.write(`GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`)
    const answer = await until('the answer', () => {
      const [head = '', body = ''] = this.#text.split('\r\n\r\n')
      const length = /\r\ncontent-length: (\d+)(?:\r\n|$)/i.exec(head)?.[1]
      if (length !== undefined && body.length === Number(length)) return { head, body }
      if (this.isClosed) throw new Error(`the connection was closed after ${this.asked} answers`)
      return null
    })
    this.asked++
    return answer
  }
}
