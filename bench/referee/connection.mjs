// @ts-check
import { connect } from 'node:net'
import { AnswerReader } from './answer.mjs'
import { ending, lossOf } from './verdicts.mjs'

/** @typedef {import('./verdicts.mjs').Loss} Loss */
/** @typedef {{ kind: Loss | null, reason: string, answer: AnswerReader }} Outcome */

/** All sockets read into the same memory: what comes is looked at before the next reads. */
const INTO = Buffer.allocUnsafe(64 * 1024)

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
   * @param {import('node:net').NetConnectOpts} target
   * @param {(kind: Loss | 'closedIdle' | 'expired' | null, reason: string) => void} whileIdle called once when the
   *   connection ends with nothing outstanding; null: as announced
   * @param {() => void} [opened]
   */
  constructor(target, whileIdle, opened) {
    this.#whileIdle = whileIdle
    const callback = (/** @type {number} */ length) => {
      this.#data(INTO.subarray(0, length))
      return true
    }
    this.#socket = connect({ ...target, noDelay: true, onread: { buffer: INTO, callback } })
    this.#socket.on('connect', () => {
      this.#connected = true
      if (!this.#ended) opened?.()
    })
    this.#socket.on('end', () => this.#gone(null))
    this.#socket.on('error', error => this.#gone(/** @type {NodeJS.ErrnoException} */ (error)))
    this.#socket.on('close', () => this.#gone(null))
  }

  /** Free for a next request. */
  get usable() {
    return !this.#ended && !this.#announced && this.#done === null
  }

  /** A request is on the way. */
  get busy() {
    return this.#done !== null
  }

  get ended() {
    return this.#ended
  }

  /** For what is written or read at a pace. */
  get socket() {
    return this.#socket
  }

  /**
   * Writes one request; `done` is called exactly once.
   * @param {string} request
   * @param {(outcome: Outcome) => void} done
   * @param {import('./answer.mjs').OnBody} [onBody]
   */
  send(request, done, onBody) {
    this.#reader = new AnswerReader(onBody)
    this.#done = done
    this.#socket.write(request, 'latin1')
  }

  /** The deadline has passed. */
  expire() {
    const got = this.#reader.begun ? `${this.#reader.bodyBytes} bytes of the body` : 'nothing'
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

  /** @param {Buffer} chunk */
  #data(chunk) {
    if (this.#ended) return
    if (this.#done === null) {
      this.close()
      const text = JSON.stringify(chunk.toString('latin1', 0, 60))
      this.#whileIdle('wrong', `${chunk.length} bytes that nobody asked for: ${text}`)
      return
    }
    const reader = this.#reader
    const behind = chunk.length - reader.feed(chunk)
    const wrong =
      reader.broken || (reader.done && behind > 0 ? `${behind} bytes after the end of the answer` : '')
    if (wrong !== '') {
      // Closes first: a listener of the event may look for a connection for the next request.
      this.close()
      this.#settle('wrong', wrong)
    } else if (reader.done) {
      this.#answered++
      this.#announced = reader.announcesClose
      this.#promisedMs = reader.keepAliveMs
      this.#idleSince = performance.now()
      this.#settle(null, '')
    }
  }

  /** @param {NodeJS.ErrnoException | null} error null for FIN */
  #gone(error) {
    if (this.#ended) return
    this.#ended = true
    const how = ending(error)
    if (this.#done !== null || !this.#connected) {
      const so = { connected: this.#connected, begun: this.#reader.begun, answered: this.#answered }
      const loss = lossOf(error, so)
      if (this.#done === null) this.#whileIdle(loss, how)
      else this.#settle(loss, how)
    } else if (this.#announced) this.#whileIdle(null, how)
    else {
      const idle = performance.now() - this.#idleSince
      const why = `${how} after ${idle.toFixed(0)} ms idle and ${this.#answered} answers`
      this.#whileIdle(idle >= this.#promisedMs ? 'expired' : 'closedIdle', why)
    }
    this.#socket.destroy()
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
