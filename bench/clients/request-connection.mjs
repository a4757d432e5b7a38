// @ts-check
import { connect } from 'node:net'
import { Reply } from './reply.mjs'
import { ending } from './verdicts.mjs'

/** All sockets read into the same memory: what comes is looked at before the next reads. */
const INTO = Buffer.allocUnsafe(64 * 1024)

/**
 * @typedef {object} RequestConnectionOptions
 * @property {number} id
 * @property {import('node:net').TcpNetConnectOpts} target
 * @property {import('./verdicts.mjs').Verdicts} verdicts
 * @property {() => void} opened may ask at once
 * @property {(due: number, reply: Reply) => void} [answered] it is free again
 * @property {() => void} [gone] once, at its end
 */

/** A keep-alive connection, with one numbered request at a time. Every end that is not ours is noted. */
export class RequestConnection {
  /** @type {'opening' | 'idle' | 'asked' | 'gone'} */
  state = 'opening'
  #due = 0
  #askedAt = 0
  #number = 0
  /** @type {Reply | null} */
  #reply = null
  #text = ''
  #options
  #socket

  /** @param {RequestConnectionOptions} options */
  constructor(options) {
    this.#options = options
    const { target, verdicts, opened } = options
    const callback = (/** @type {number} */ length) => {
      this.#data(INTO.subarray(0, length))
      return true
    }
    this.#socket = connect({ ...target, noDelay: true, onread: { buffer: INTO, callback } })
    this.#socket.on('connect', () => {
      if (this.state !== 'opening') return
      verdicts.counts.opened++
      this.state = 'idle'
      opened()
    })
    this.#socket.on('end', () => this.#gone(null))
    this.#socket.on('error', error => this.#gone(error))
    this.#socket.on('close', () => this.#gone(null))
  }

  /** @param {number} [due] when it was to be asked */
  ask(due = performance.now()) {
    if (this.state !== 'idle') return
    this.state = 'asked'
    this.#due = due
    this.#askedAt = performance.now()
    this.#text = ''
    this.#reply = new Reply(bytes => {
      this.#text += bytes.toString('latin1')
    })
    const { id } = this.#options
    this.#socket.write(`GET /n/${id}/${++this.#number} HTTP/1.1\r\nHost: plain.test\r\n\r\n`, 'latin1')
  }

  /** @param {number} ms how long it may wait for its answer */
  expire(ms) {
    if (this.state !== 'asked' || performance.now() - this.#askedAt < ms) return
    this.end('failed', `request ${this.#number} was not answered within ${ms} ms`)
  }

  /** Not the other side's doing. */
  close() {
    if (this.state === 'gone') return
    this.state = 'gone'
    this.#socket.destroy()
    this.#options.gone?.()
  }

  /** @param {import('./verdicts.mjs').Verdict} verdict @param {string} reason */
  end(verdict, reason) {
    this.#options.verdicts.note(verdict, String(this.#options.id), reason)
    this.close()
  }

  /** @param {Buffer} chunk */
  #data(chunk) {
    if (this.state === 'gone') return
    const reply = this.#reply
    if (this.state !== 'asked' || reply === null)
      return this.end('wrong', `${chunk.length} bytes that nobody asked for`)
    const taken = reply.feed(chunk)
    if (reply.wrong !== '') return this.end('wrong', reply.wrong)
    if (!reply.done) return
    if (taken < chunk.length) return this.end('wrong', `${chunk.length - taken} bytes behind the answer`)
    if (reply.status !== 200) return this.end('failed', `status ${reply.status}: ${this.#text.slice(0, 60)}`)
    const { id, verdicts, answered } = this.#options
    if (this.#text !== `${id} ${this.#number}\n`)
      return this.end(
        'wrong',
        `request ${this.#number} was answered ${JSON.stringify(this.#text.slice(0, 60))}`,
      )
    verdicts.took(performance.now() - this.#askedAt)
    this.#reply = null
    this.state = 'idle'
    answered?.(this.#due, reply)
  }

  /** @param {Error | null} error */
  #gone(error) {
    if (this.state === 'gone') return
    if (this.state === 'opening') this.end('failed', `not opened: ${ending(error)}`)
    else if (this.state === 'asked') this.end('failed', `${ending(error)} in place of answer ${this.#number}`)
    else this.end('closed', `${ending(error)} while idle, after ${this.#number} answers`)
  }
}
