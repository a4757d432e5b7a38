import { type ClientRequest, get, type IncomingMessage, type RequestOptions } from 'node:http'
import type { Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import type { Question } from './question.js'

/** Characters of a bad answer's body that are kept. */
const SAID_CHARACTERS = 100

/** A GET through a connection that is made for it. */
export interface PrivateGet {
  /** The path, with its query. */
  readonly path: string
  /** The field `Host`; with TLS also the server's name. */
  readonly host: string
  /** The connection speaks TLS. The certificate is not verified: the question is for this version, whatever its name. */
  readonly tls: boolean
  /** Which status is well. Default: 200 to 399. */
  readonly status?: number | undefined
  /** A new connection; it is ended with the question. */
  connect(): Socket
}

/** Asks at an address that the version listens at itself, or that all share. */
export function httpQuestion(url: string): Question {
  return {
    asked: `GET ${url}`,
    ask: signal => answerOf(then => get(url, { agent: false, signal }, then), undefined),
  }
}

export function privateHttpQuestion({ path, host, tls, status, connect }: PrivateGet): Question {
  return {
    asked: `GET ${path}${host === 'localhost' ? '' : ` of ${host}`}`,
    ask: async signal => {
      const socket = connect()
      const over = () => socket.destroy()
      signal.addEventListener('abort', over, { once: true })
      const options: RequestOptions = {
        path,
        signal,
        headers: { host, connection: 'close' },
        createConnection: () => (tls ? secured(socket, host) : socket),
      }
      try {
        return await answerOf(then => get(options, then), status)
      } catch (error) {
        socket.destroy()
        throw error
      } finally {
        signal.removeEventListener('abort', over)
      }
    },
  }
}

function secured(socket: Socket, host: string): Socket {
  const servername = host.replace(/:\d+$/, '')
  return connectTls({
    socket,
    rejectUnauthorized: false,
    ALPNProtocols: ['http/1.1'],
    // An address is no name (RFC 6066).
    ...(/^[\d.]+$|^\[/.test(servername) ? {} : { servername }),
  })
}

function answerOf(
  ask: (then: (answer: IncomingMessage) => void) => ClientRequest,
  wanted: number | undefined,
): Promise<string | null> {
  return new Promise((resolve, reject) => {
    const request = ask(answer => {
      const { statusCode = 0, statusMessage = '' } = answer
      const well = wanted === undefined ? statusCode >= 200 && statusCode < 400 : statusCode === wanted
      const status = `${statusCode} ${statusMessage}`.trim()
      const told = (body: string) => {
        const [line = ''] = body.split('\n')
        resolve(line.trim() === '' ? status : `${status} (${line.slice(0, SAID_CHARACTERS)})`)
      }
      if (well) resolve(null)
      else answer.once('data', chunk => told(String(chunk))).once('end', () => told(''))
      // A later break is harmless: the answer is complete.
      answer.once('error', () => told(''))
      answer.resume()
    })
    request.once('error', reject)
  })
}
