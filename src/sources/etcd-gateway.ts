import type http from 'node:http'
import { nodeHttp } from '../base/lazy.js'
import { withinLimit } from '../base/limited-signal.js'
import { FdbError } from '../errors.js'

/** Limit for the answer to a request that is no watch. */
const ANSWER_MS = 10_000
/** TCP keepalive of a watch: a firewall forgets a connection without traffic. */
const KEEPALIVE_MS = 15_000
/** etcd's own limit of a request is 1.5 MiB; a range of many entries and a batch of events may be larger. */
const MOST_MESSAGE_LENGTH = 256 * 1024 * 1024

export interface EtcdTls {
  readonly ca?: string | Buffer | undefined
  readonly cert?: string | Buffer | undefined
  readonly key?: string | Buffer | undefined
  readonly servername?: string | undefined
}

export interface EtcdUser {
  readonly name: string
  readonly password: string
}

/** etcd 3.4 and later over its JSON gateway (HTTP/1.1). After a failure the next request goes to the next host. */
export class EtcdGateway {
  readonly #hosts: readonly URL[]
  readonly #tls: EtcdTls
  readonly #user: EtcdUser | null
  #host: number
  #token: string | null = null

  constructor(hosts: readonly URL[], tls: EtcdTls, user: EtcdUser | null) {
    this.#hosts = hosts
    this.#tls = tls
    this.#user = user
    // Many machines have the same list.
    this.#host = Math.floor(Math.random() * hosts.length)
  }

  /** Rejects with ERR_FDB_SOURCE. */
  async call(path: string, body: object, signal: AbortSignal): Promise<Record<string, unknown>> {
    return await withinLimit(signal, ANSWER_MS, async limited => {
      for await (const message of this.stream(path, body, limited)) return message
      throw this.#next(this.#host, path, 'the answer is empty')
    })
  }

  /** Yields the messages of an answer: one, or those of a watch until `signal` aborts. Throws ERR_FDB_SOURCE. */
  async *stream(
    path: string,
    body: object,
    signal: AbortSignal,
  ): AsyncGenerator<Record<string, unknown>, void> {
    if (this.#user !== null && path !== AUTHENTICATE) await this.#authenticate(this.#user, signal)
    const host = this.#host
    let response: http.IncomingMessage
    try {
      response = await this.#request(path, JSON.stringify(body), signal)
    } catch (error) {
      throw this.#next(host, path, whyOf(error, signal), error)
    }
    try {
      /** The beginning of a message, which is a line. */
      let parts: string[] = []
      let length = 0
      for await (const part of response as AsyncIterable<string>) {
        const lines = part.split('\n')
        const last = lines.pop() ?? ''
        for (const line of lines) {
          const whole = parts.join('') + line
          parts = []
          length = 0
          if (whole !== '') yield this.#message(host, path, whole, response.statusCode)
        }
        parts.push(last)
        length += last.length
        if (length > MOST_MESSAGE_LENGTH) throw new Error(`a message is longer than ${MOST_MESSAGE_LENGTH}`)
      }
      const rest = parts.join('')
      if (rest !== '') yield this.#message(host, path, rest, response.statusCode)
    } catch (error) {
      throw FdbError.is(error) ? error : this.#next(host, path, whyOf(error, signal), error)
    } finally {
      response.destroy()
    }
  }

  async #authenticate({ name, password }: EtcdUser, signal: AbortSignal): Promise<void> {
    if (this.#token !== null) return
    const { token } = await this.call(AUTHENTICATE, { name, password }, signal)
    if (typeof token !== 'string') throw this.#next(this.#host, AUTHENTICATE, 'the answer has no token')
    this.#token = token
  }

  #request(path: string, body: string, signal: AbortSignal): Promise<http.IncomingMessage> {
    const url = new URL(path, this.#hosts[this.#host])
    const { request } = url.protocol === 'https:' ? process.getBuiltinModule('node:https') : nodeHttp()
    return new Promise((resolve, reject) => {
      const headers = {
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
        ...(this.#token !== null && { authorization: this.#token }),
      }
      const sent = request(url, { ...this.#tls, method: 'POST', headers, signal, agent: false })
      sent.on('socket', socket => socket.setKeepAlive(true, KEEPALIVE_MS))
      sent.on('error', reject)
      sent.on('response', response => {
        // Bytes of a character may come in two parts.
        resolve(response.setEncoding('utf8'))
      })
      sent.end(body)
    })
  }

  /** Unwraps the `result` of a stream, and throws the refusals of the store. */
  #message(host: number, path: string, line: string, status = 0): Record<string, unknown> {
    let message: { result?: unknown; error?: unknown; message?: unknown }
    try {
      message = JSON.parse(line)
    } catch {
      throw this.#next(host, path, `the answer (status ${status}) is no JSON`)
    }
    const { result, error } = message
    if (error === undefined && status === 200) return (result ?? message) as Record<string, unknown>
    const refusal = (error ?? message) as { message?: unknown } | string
    const why = typeof refusal === 'string' ? refusal : refusal.message
    throw this.#refused(host, path, `status ${status}: ${String(why)}`)
  }

  /** The error for a watch that the store has cancelled, which it tells in a message with status 200. */
  cancelled(path: string, why: unknown): FdbError {
    return this.#refused(this.#host, path, `the watch was cancelled: ${String(why ?? '')}`)
  }

  /** The next request authenticates again: a token ends after some minutes, or with a restart of etcd. */
  #refused(host: number, path: string, why: string): FdbError {
    this.#token = null
    return this.#next(host, path, why)
  }

  /** After a failure of this host the next request goes to another one. A failure may end further requests to the same host, which then fail too. */
  #next(failed: number, path: string, why: string, cause?: unknown): FdbError {
    const { host } = this.#hosts[failed] as URL
    if (this.#host === failed) this.#host = (failed + 1) % this.#hosts.length
    return new FdbError('ERR_FDB_SOURCE', `etcd at ${host}, ${path}: ${why}`, { retryable: true, cause })
  }
}

const AUTHENTICATE = '/v3/auth/authenticate'

/** A request that a signal ends fails with "The operation was aborted"; the signal tells why. */
function whyOf(error: unknown, signal: AbortSignal): string {
  return ((signal.aborted ? signal.reason : error) as Error).message
}
