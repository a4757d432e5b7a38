// @ts-check
// Clients as unkind as the protocol allows: requests in pieces of mostly one byte, pipelined, with pauses anywhere, that read
// their answers slowly, end their side behind the last request, or reset in the middle. All of it by a seed. Each answer
// must be the right one, to the byte.
import { connect } from 'node:net'
import { AnswerReader } from './answer.mjs'
import { MOST, mixed, PatternCheck, patternAt } from './pattern.mjs'
import { ending, lossOf } from './verdicts.mjs'

/** One connection's whole life may take so long. */
const LIFE_MS = 120_000
const MOST_REQUESTS = 16

/** @typedef {{ text: Buffer, body: (bytes: Buffer) => boolean, done: () => boolean, what: string }} Planned */

/** Numbers by a seed. @param {number} seed */
function dice(seed) {
  let turn = 0
  /** @param {number} sides */
  return sides => mixed(seed, turn++) % sides
}

/**
 * A request, and what looks at its answer.
 * @param {number} seed of the client
 * @param {number} number of the request
 * @param {(sides: number) => number} roll
 * @returns {Planned}
 */
function plan(seed, number, roll) {
  const id = `${seed}-${number}`
  const kind = roll(5)
  const stream = seed * MOST_REQUESTS + number
  const size = kind === 4 ? 20_000 + roll(100_000) : roll(1_500)
  const check = new PatternCheck(stream)
  const head = (/** @type {string} */ line, /** @type {string} */ more) =>
    Buffer.from(`${line} HTTP/1.1\r\nHost: clients.test\r\n${more}\r\n`, 'latin1')
  const body = patternAt(stream, 0, Math.min(size, MOST))
  const whole = {
    body: (/** @type {Buffer} */ bytes) => check.feed(bytes),
    done: () => check.position === size,
    what: `${number} (kind ${kind}, ${size} bytes)`,
  }
  if (kind < 2) {
    const text =
      kind === 0
        ? Buffer.concat([head(`POST /echo/${id}`, `Content-Length: ${size}\r\n`), body])
        : Buffer.concat([head(`POST /echo/${id}`, 'Transfer-Encoding: chunked\r\n'), ...chunks(body, roll)])
    return { ...whole, text }
  }
  const how = roll(2) === 0 ? '?chunked' : ''
  const path = kind === 3 ? 'drip' : 'download'
  return { ...whole, text: head(`GET /${path}/${stream}/${size}${how}`, '') }
}

/** @param {Buffer} body @param {(sides: number) => number} roll */
function chunks(body, roll) {
  const pieces = []
  for (let at = 0; at < body.length; ) {
    const length = Math.min(1 + roll(700), body.length - at)
    pieces.push(
      Buffer.from(`${length.toString(16)}\r\n`),
      body.subarray(at, at + length),
      Buffer.from('\r\n'),
    )
    at += length
  }
  return [...pieces, Buffer.from('0\r\n\r\n')]
}

/**
 * @param {object} options
 * @param {import('node:net').TcpNetConnectOpts} options.target
 * @param {number} options.count at a time
 * @param {number} options.seed of the first; each of the others has one of its own behind it
 * @param {import('./verdicts.mjs').Verdicts} options.verdicts
 */
export function startHostile({ target, count, seed: first, verdicts }) {
  let open = 0
  let next = first
  let stopping = false

  function begin() {
    open++
    live(next++, () => {
      open--
      if (!stopping) begin()
    })
  }

  /** @param {number} seed @param {() => void} over */
  function live(seed, over) {
    const roll = dice(seed)
    const planned = Array.from({ length: 1 + roll(MOST_REQUESTS - 1) }, (_, n) => plan(seed, n, roll))
    const bytes = Buffer.concat(planned.map(({ text }) => text))
    const resetAt = roll(6) === 0 ? roll(bytes.length) : -1
    const halfCloses = roll(2) === 0
    const readsSlowly = roll(3) === 0
    let sent = 0
    let answered = 0
    let left = false
    let connected = false
    let reply = nextReply()

    function nextReply() {
      const request = planned[answered]
      return new AnswerReader((chunk, status) => {
        verdicts.seen.bytes += chunk.length
        return status !== 200 || request?.body(chunk) ? '' : `other bytes in answer ${request?.what}`
      })
    }
    /** @param {import('./verdicts.mjs').Kind | null} kind @param {string} reason */
    const leave = (kind, reason) => {
      if (left) return
      left = true
      clearTimeout(timer)
      const where = `${answered} of ${planned.length} answers, ${sent} of ${bytes.length} bytes sent`
      if (kind !== null) verdicts.note(kind, `hostile seed ${seed}`, `${reason}; ${where}`)
      if (sent === resetAt) socket.resetAndDestroy()
      else socket.destroy()
      over()
    }
    const send = () => {
      if (left) return
      if (sent === resetAt) return leave(null, '')
      const most = roll(3) === 0 ? 1 + roll(600) : 1 + roll(3)
      const until = Math.min(bytes.length, resetAt > sent ? resetAt : bytes.length, sent + most)
      socket.write(bytes.subarray(sent, until))
      sent = until
      if (sent < bytes.length) {
        const pause = roll(40)
        if (pause === 0) setTimeout(send, roll(600))
        else if (pause < 5) setImmediate(send)
        else setTimeout(send, pause)
      } else if (halfCloses) socket.end()
    }
    const socket = connect({ ...target, noDelay: true, allowHalfOpen: true })
    const timer = setTimeout(() => leave('dropped', `not over after ${LIFE_MS} ms`), LIFE_MS)
    socket.on('connect', () => {
      connected = true
      verdicts.seen.opened++
      send()
    })
    socket.on('data', chunk => {
      for (let at = 0; at < chunk.length && !left; ) {
        const request = planned[answered]
        if (request === undefined) return leave('wrong', `${chunk.length - at} bytes behind the last answer`)
        at += reply.feed(chunk.subarray(at))
        if (reply.broken !== '') return leave('wrong', reply.broken)
        if (!reply.done) continue
        if (reply.status !== 200) return leave('denied', `status ${reply.status} to request ${request.what}`)
        if (!request.done()) return leave('wrong', `answer ${request.what} is too short`)
        if (reply.announcesClose && answered + 1 < planned.length)
          return leave('announced', `the end was announced with answer ${request.what}`)
        answered++
        verdicts.seen.answered++
        reply = nextReply()
        // Without a FIN of ours only we have to end the connection.
        if (answered === planned.length && !halfCloses) return leave(null, '')
      }
      if (readsSlowly && !left) {
        socket.pause()
        setTimeout(() => socket.resume(), roll(30))
      }
    })
    const gone = (/** @type {Error | null} */ error) => {
      if (error === null && answered === planned.length && halfCloses) leave(null, '')
      else
        leave(
          lossOf(error, { connected, begun: reply.begun, answered }),
          `${ending(error)} before the last answer`,
        )
    }
    socket.on('end', () => gone(null))
    socket.on('error', gone)
    socket.on('close', () => gone(null))
  }

  for (let n = 0; n < count; n++) begin()
  return {
    get ready() {
      return verdicts.seen.answered > count
    },
    get open() {
      return open
    },
    async stop() {
      stopping = true
      while (open > 0) await new Promise(resolve => setTimeout(resolve, 20))
    },
  }
}
