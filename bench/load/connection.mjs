// @ts-check
import { connect } from 'node:net'
import { AnswerReader } from './answer.mjs'

/** @typedef {import('./kinds.mjs').Loss} Loss */
/** @typedef {{ kind: Loss | null, reason: string, answer: AnswerReader }} Outcome */

const REFUSED = new Set(['ECONNREFUSED', 'ENOENT', 'EAGAIN'])

/**
 * One client connection, one request at a time. Says exactly what happened on the socket; never retries, never
 * reconnects.
 */
export class Connection {
  #socket
  #connected = false
  #answered = 0
  #announced = false
  #promisedMs = Number.POSITIVE_INFINITY
  #idleSince = 0
  #ended = false
  #reader = new AnswerReader()
  /** @type {((outcome: Outcome) => void) | null} */
  #done = null
  #whileIdle

  /**
   * @param {import('./target.mjs').Target} target
   * @param {(kind: 'closedIdle' | 'expired' | 'wrong' | null, reason: string) => void} whileIdle called once when the
   *   connection ends with nothing outstanding; null: as announced
   */
  constructor(target, whileIdle) {
    this.#whileIdle = whileIdle
    this.#socket = connect(target.connect)
    this.#socket.setNoDelay(true)
    this.#socket.setEncoding('latin1')
    this.#socket.on('connect', () => {
      this.#connected = true
    })
    this.#socket.on('data', text => this.#data(String(text)))
    this.#socket.on('end', () => this.#gone(null))
    this.#socket.on('error', error => this.#gone(/** @type {NodeJS.ErrnoException} */ (error)))
    this.#socket.on('close', () => this.#gone(null))
  }

  /** Free for a next request. */
  get usable() {
    return !this.#ended && !this.#announced && this.#done === null
  }

  /**
   * Writes one request; `done` is called exactly once.
   * @param {string} request
   * @param {(outcome: Outcome) => void} done
   */
  send(request, done) {
    this.#reader = new AnswerReader()
    this.#done = done
    this.#socket.write(request, 'latin1')
  }

  /** The deadline has passed. */
  expire() {
    const got = this.#reader.begun ? `${this.#reader.body.length} bytes of the body` : 'nothing'
    this.close()
    this.#settle(
      'dropped',
      `${this.#connected ? 'connected, ' : 'not even connected, '}${got} before the deadline`,
    )
  }

  /** We close: not the server's doing, never counted. */
  close() {
    this.#ended = true
    this.#socket.destroy()
  }

  /** @param {string} text */
  #data(text) {
    if (this.#done === null) {
      if (this.#ended) return
      this.close()
      this.#whileIdle(
        'wrong',
        `${text.length} bytes that nobody asked for: ${JSON.stringify(text.slice(0, 60))}`,
      )
      return
    }
    this.#reader.feed(text)
    if (this.#reader.broken !== '') {
      // First: whoever hears of it may look for a connection for the next request.
      this.close()
      this.#settle('wrong', this.#reader.broken)
    } else if (this.#reader.done) {
      this.#answered++
      this.#announced = this.#reader.announcesClose
      this.#promisedMs = this.#reader.keepAliveMs
      this.#idleSince = performance.now()
      this.#settle(null, '')
    }
  }

  /** @param {NodeJS.ErrnoException | null} error null for FIN */
  #gone(error) {
    if (this.#ended) return
    this.#ended = true
    const how = error ? (error.code ?? error.message) : 'FIN'
    if (this.#done === null) this.#goneIdle(how)
    else this.#settle(this.#lossOf(error), how)
    this.#socket.destroy()
  }

  /** @param {string} how */
  #goneIdle(how) {
    if (this.#announced) return this.#whileIdle(null, how)
    const idle = performance.now() - this.#idleSince
    this.#whileIdle(
      idle >= this.#promisedMs ? 'expired' : 'closedIdle',
      `${how} after ${idle.toFixed(0)} ms idle and ${this.#answered} answers`,
    )
  }

  /**
   * @param {NodeJS.ErrnoException | null} error
   * @returns {Loss}
   */
  #lossOf(error) {
    if (!this.#connected && error && REFUSED.has(error.code ?? '')) return 'refused'
    if (!this.#reader.begun) return this.#answered > 0 ? 'raced' : 'reset'
    return error ? 'reset' : 'truncated'
  }

  /**
   * @param {Loss | null} kind
   * @param {string} reason
   */
  #settle(kind, reason) {
    const done = this.#done
    this.#done = null
    done?.({ kind, reason, answer: this.#reader })
  }
}
