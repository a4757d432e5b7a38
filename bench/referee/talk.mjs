// @ts-check
// A talk: both ends say numbered messages, each of which the other end knows beforehand to the byte, frame included. So a
// byte that is lost, repeated, changed or out of order is seen with the next one, in both directions.
import { mixed, patternAt } from './pattern.mjs'

/** @typedef {'ws-client' | 'ws-server' | 'tcp'} Framing */
/** `chat`: a message now and then. `full`: as much as the other end takes. @typedef {'chat' | 'full'} Manner */

const DATA = { 'ws-client': 0x82, 'ws-server': 0x82, tcp: 0x44 }
const END = { 'ws-client': 0x81, 'ws-server': 0x81, tcp: 0x45 }
const NO_MASK = Buffer.alloc(4)
/** Bytes that may wait in our own process before a talk pauses. */
const FULL_BYTES = 64 * 1024

/** @param {Framing} framing @param {number} kind @param {number} length */
function header(framing, kind, length) {
  if (framing === 'tcp') {
    const bytes = Buffer.alloc(5)
    bytes[0] = kind
    bytes.writeUInt32BE(length, 1)
    return bytes
  }
  const masked = framing === 'ws-client' ? 0x80 : 0
  const start = length < 126 ? Buffer.alloc(2) : Buffer.alloc(4)
  start[0] = kind
  start[1] = masked | Math.min(length, 126)
  if (length >= 126) start.writeUInt16BE(length, 2)
  // A mask of zeros is a mask, and leaves the payload as it is.
  return masked ? Buffer.concat([start, NO_MASK]) : start
}

/**
 * Message `number` of one direction of one talk, as it is on the wire.
 * @param {Framing} framing of who says it
 * @param {Manner} manner
 * @param {number} seed
 * @param {number} number
 */
function message(framing, manner, seed, number) {
  const chance = mixed(seed, number)
  const long = manner === 'full' || chance % 24 === 0
  const length = long ? 1_000 + (chance % 15_000) : 20 + (chance % 300)
  const payload = Buffer.from(patternAt(seed, number * 31, length))
  payload.writeUInt32BE(number, 0)
  return Buffer.concat([header(framing, DATA[framing], length), payload])
}

/** The last one. @param {Framing} framing @param {number} count of the messages before */
function ending(framing, count) {
  const payload = Buffer.from(`end ${count}`)
  return Buffer.concat([header(framing, END[framing], payload.length), payload])
}

/** The seeds of both directions of a talk. @param {number} seed */
const directions = seed => ({ fromClient: seed * 2 + 1, fromServer: seed * 2 + 2 })

/** One end of a talk, over a socket with its own reader. */
export class Talk {
  /** Messages. */
  said = 0
  heard = 0
  bytesSaid = 0
  bytesHeard = 0
  /** Both ends have said their last piece. */
  ended = false
  otherEnded = false
  /** The first fault in the received bytes; '' without one. */
  wrong = ''
  #socket
  /** @type {Framing} */
  #mine
  /** @type {Framing} */
  #its
  #seedOfMine
  #seedOfIts
  #manner
  #expected = Buffer.alloc(0)
  #at = 0

  /**
   * @param {import('node:net').Socket} socket
   * @param {{ end: 'client' | 'server', framing: 'ws' | 'tcp', seed: number, manner: Manner }} options
   */
  constructor(socket, { end, framing, seed, manner }) {
    const { fromClient, fromServer } = directions(seed)
    this.#socket = socket
    this.#mine = framing === 'tcp' ? 'tcp' : `ws-${end}`
    this.#its = framing === 'tcp' ? 'tcp' : end === 'client' ? 'ws-server' : 'ws-client'
    this.#seedOfMine = end === 'client' ? fromClient : fromServer
    this.#seedOfIts = end === 'client' ? fromServer : fromClient
    this.#manner = manner
  }

  /** Says what is due: one message, or as many as are taken. */
  say() {
    if (this.ended || this.#socket.destroyed) return
    do {
      if (this.#socket.writableLength > FULL_BYTES) return
      this.#write(message(this.#mine, this.#manner, this.#seedOfMine, this.said))
      this.said++
    } while (this.#manner === 'full')
  }

  /** Says nothing more. */
  end() {
    if (this.ended) return
    this.ended = true
    this.#write(ending(this.#mine, this.said))
  }

  /** @param {Buffer} bytes */
  #write(bytes) {
    this.bytesSaid += bytes.length
    this.#socket.write(bytes)
  }

  /** Takes received bytes. @param {Buffer} chunk */
  hear(chunk) {
    this.bytesHeard += chunk.length
    let from = 0
    while (from < chunk.length && this.wrong === '') {
      if (this.#at === this.#expected.length) this.#expect(chunk[from] ?? 0)
      const length = Math.min(this.#expected.length - this.#at, chunk.length - from)
      if (this.#expected.compare(chunk, from, from + length, this.#at, this.#at + length) !== 0) {
        this.wrong = `message ${this.heard}, byte ${this.#at} of ${this.#expected.length}: other bytes`
        return
      }
      from += length
      this.#at += length
      if (this.#at < this.#expected.length) return
      if (this.#expected[0] === END[this.#its]) this.otherEnded = true
      else this.heard++
    }
  }

  /** @param {number} kind the first byte of the next frame */
  #expect(kind) {
    this.#at = 0
    if (this.otherEnded) this.wrong = `bytes after the end, which came after ${this.heard} messages`
    this.#expected =
      kind === END[this.#its]
        ? ending(this.#its, this.heard)
        : message(this.#its, this.#manner, this.#seedOfIts, this.heard)
  }
}
