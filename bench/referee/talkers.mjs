// @ts-check
import { Talk } from './talk.mjs'

/** At each tick the talkers that are due say something. */
const TICK_MS = 10
/** A slow listener takes one piece in so many milliseconds. */
const SLOWLY_MS = 200

/**
 * @typedef {object} Talker
 * @property {Talk} talk
 * @property {import('node:net').Socket} socket
 * @property {import('./talk.mjs').Manner} manner
 * @property {boolean} paused
 */

/** The talks of one process, at either end: says what is due, and reads slowly where the other end says all it can. */
export class Talkers {
  /** @type {Set<Talker>} */
  all = new Set()
  /** Also those that read slowly read at once from now on, and those that say all they can say nothing more: see {@link relax}. */
  relaxed = false
  #everyMs
  #turn = 0
  /** @type {NodeJS.Timeout[]} */
  #timers

  /** @param {number} everyMs between two messages of one that chats */
  constructor(everyMs) {
    this.#everyMs = everyMs
    this.#timers = [setInterval(() => this.#tick(), TICK_MS), setInterval(() => this.#resume(), SLOWLY_MS)]
  }

  /**
   * The socket's bytes are given to {@link heard} by the caller; it is over with `close`.
   * @param {import('node:net').Socket} socket
   * @param {ConstructorParameters<typeof Talk>[1]} options
   * @returns {Talker}
   */
  add(socket, options) {
    const talker = { talk: new Talk(socket, options), socket, manner: options.manner, paused: false }
    this.all.add(talker)
    socket.on('close', () => this.all.delete(talker))
    if (options.manner === 'full') {
      socket.on('drain', () => this.relaxed || talker.talk.say())
      talker.talk.say()
    }
    return talker
  }

  /** @param {Talker} talker @param {Buffer} chunk @returns {boolean} whether to go on reading */
  heard(talker, chunk) {
    talker.talk.hear(chunk)
    if (talker.manner === 'chat' || this.relaxed) return true
    talker.paused = true
    return false
  }

  /**
   * Reads all there is from now on. Much is on its way by then (each side's kernel buffers up to 32 MB a connection,
   * net.ipv4.tcp_rmem), and it would never end while talkers say as much as they read.
   */
  relax() {
    this.relaxed = true
    this.#resume()
  }

  close() {
    for (const timer of this.#timers) clearInterval(timer)
  }

  #tick() {
    const turns = Math.max(1, Math.round(this.#everyMs / TICK_MS))
    const turn = this.#turn++ % turns
    let at = 0
    for (const { talk, manner } of this.all) if (at++ % turns === turn && manner === 'chat') talk.say()
  }

  #resume() {
    for (const talker of this.all) {
      if (!talker.paused) continue
      talker.paused = false
      talker.socket.resume()
    }
  }
}
