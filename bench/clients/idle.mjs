// @ts-check
// Keep-alive connections that sit idle and are used now and then. One that is closed while nothing is asked is seen at once.
import { connect } from 'node:net'
import { Reply } from './reply.mjs'
import { ending } from './verdicts.mjs'

const TICK_MS = 10
const OPENING_AT_ONCE = 64
/** All sockets read into the same memory: what comes is looked at before the next reads. */
const INTO = Buffer.allocUnsafe(64 * 1024)

/** @typedef {import('./verdicts.mjs').Verdicts} Verdicts */

/** One connection: a request at a time, each with a number. */
class IdleConnection {
  /** @type {'opening' | 'idle' | 'asked' | 'gone'} */
  state = 'opening'
  askedAt = 0
  #id
  #number = 0
  #verdicts
  #socket
  /** @type {Reply | null} */
  #reply = null
  #text = ''

  /**
   * @param {number} id
   * @param {import('node:net').TcpNetConnectOpts} target
   * @param {Verdicts} verdicts
   * @param {() => void} opened
   */
  constructor(id, target, verdicts, opened) {
    this.#id = id
    this.#verdicts = verdicts
    const callback = (/** @type {number} */ length) => {
      this.#data(INTO.subarray(0, length))
      return true
    }
    const options = { ...target, noDelay: true, onread: { buffer: INTO, callback } }
    this.#socket = connect(options)
    this.#socket.on('connect', () => {
      if (this.state !== 'opening') return
      verdicts.counts.opened++
      this.state = 'idle'
      this.ask()
      opened()
    })
    this.#socket.on('end', () => this.#gone(null))
    this.#socket.on('error', error => this.#gone(error))
    this.#socket.on('close', () => {
      this.#gone(null)
      opened()
    })
  }

  ask() {
    if (this.state !== 'idle') return
    this.state = 'asked'
    this.askedAt = performance.now()
    this.#text = ''
    this.#reply = new Reply(bytes => {
      this.#text += bytes.toString('latin1')
    })
    this.#socket.write(`GET /n/${this.#id}/${++this.#number} HTTP/1.1\r\nHost: idle\r\n\r\n`, 'latin1')
  }

  /** @param {number} ms how long it may wait for its answer */
  expire(ms) {
    if (this.state !== 'asked' || performance.now() - this.askedAt < ms) return
    this.#end('failed', `request ${this.#number} was not answered within ${ms} ms`)
  }

  close() {
    this.state = 'gone'
    this.#socket.destroy()
  }

  /** @param {Buffer} chunk */
  #data(chunk) {
    if (this.state === 'gone') return
    const reply = this.#reply
    if (this.state !== 'asked' || reply === null) {
      this.#end('wrong', `${chunk.length} bytes that nobody asked for`)
      return
    }
    const taken = reply.feed(chunk)
    if (reply.wrong !== '') return this.#end('wrong', reply.wrong)
    if (!reply.done) return
    if (taken < chunk.length) return this.#end('wrong', `${chunk.length - taken} bytes behind the answer`)
    if (reply.status !== 200) return this.#end('failed', `status ${reply.status}: ${this.#text.slice(0, 60)}`)
    if (this.#text !== `${this.#id} ${this.#number}\n`)
      return this.#end(
        'wrong',
        `request ${this.#number} was answered ${JSON.stringify(this.#text.slice(0, 60))}`,
      )
    this.#verdicts.took(performance.now() - this.askedAt)
    this.#reply = null
    this.state = 'idle'
  }

  /** @param {Error | null} error */
  #gone(error) {
    if (this.state === 'gone') return
    if (this.state === 'opening') this.#end('failed', `not opened: ${ending(error)}`)
    else if (this.state === 'asked')
      this.#end('failed', `${ending(error)} in place of answer ${this.#number}`)
    else this.#end('closed', `${ending(error)} while idle, after ${this.#number} answers`)
  }

  /** @param {import('./verdicts.mjs').Verdict} verdict @param {string} reason */
  #end(verdict, reason) {
    this.#verdicts.note(verdict, String(this.#id), reason)
    this.close()
  }
}

/**
 * @param {object} options
 * @param {import('node:net').TcpNetConnectOpts} options.target
 * @param {number} options.count
 * @param {number} [options.everyMs] each is used once in this time
 * @param {number} [options.deadlineMs] for an answer
 * @param {Verdicts} options.verdicts
 */
export function startIdle({ target, count, everyMs = 20_000, deadlineMs = 10_000, verdicts }) {
  /** @type {IdleConnection[]} */
  const all = []
  let opening = 0
  let credit = 0
  let next = 0
  let last = performance.now()

  /** Several at a time, so that no backlog is full. */
  function open() {
    while (opening < OPENING_AT_ONCE && all.length < count) {
      opening++
      let counted = false
      const opened = () => {
        if (counted) return
        counted = true
        opening--
        open()
      }
      all.push(new IdleConnection(all.length, target, verdicts, opened))
    }
  }
  open()

  const timer = setInterval(() => {
    const now = performance.now()
    credit += ((now - last) / everyMs) * all.length
    last = now
    for (; credit >= 1; credit--) {
      const connection = all[next++ % all.length]
      connection?.ask()
      // Half a round later its answer has long come.
      all[(next + (all.length >> 1)) % all.length]?.expire(deadlineMs)
    }
  }, TICK_MS)

  return {
    get ready() {
      return all.length === count && opening === 0
    },
    get open() {
      return all.reduce((sum, { state }) => sum + (state === 'gone' ? 0 : 1), 0)
    },
    /** Every one is asked once more; whoever is answered is there. */
    async stop() {
      clearInterval(timer)
      for (const each of all) each.ask()
      const until = performance.now() + deadlineMs
      while (performance.now() < until && all.some(({ state }) => state === 'asked'))
        await new Promise(resolve => setTimeout(resolve, 20))
      for (const each of all) each.expire(0)
      for (const each of all) each.close()
    },
  }
}
