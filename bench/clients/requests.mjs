// @ts-check
// Requests that take long: slow answers, streams of events, uploads and downloads with clients that stall.
import { connect } from 'node:net'
import { eventText } from './events.mjs'
import { MOST, mixed, PatternCheck, patternAt } from './pattern.mjs'
import { Reply } from './reply.mjs'
import { ending } from './verdicts.mjs'

/** @typedef {import('./verdicts.mjs').Verdicts} Verdicts */
/** @typedef {import('node:net').TcpNetConnectOpts} Target */

/** The longest that a transfer, or what is left of it at the end, may take. */
const STOP_MS = 120_000
/** No more is written or read at a time. */
const BURST_BYTES = 512 * 1024
/** What waits in our own process before an upload goes on. */
const WAITING_BYTES = 256 * 1024

/**
 * One request on a connection of its own, which stays open behind the answer until we close it.
 * @param {object} options
 * @param {Target} options.target
 * @param {string} options.head without its empty line
 * @param {string} options.what
 * @param {Verdicts} options.verdicts
 * @param {(bytes: Buffer) => string} options.body looks at the next bytes of the body; says what is wrong
 * @param {(reply: Reply) => string} options.end looks at the whole answer
 * @param {() => void} options.over once, whatever became of it
 */
function request({ target, head, what, verdicts, body, end, over }) {
  const begun = performance.now()
  let left = false
  let wrong = ''
  const reply = new Reply(bytes => {
    verdicts.counts.bytes += bytes.length
    if (wrong === '') wrong = body(bytes)
  })
  /** @param {import('./verdicts.mjs').Verdict | null} verdict @param {string} reason */
  const leave = (verdict, reason) => {
    if (left) return
    left = true
    if (verdict !== null) verdicts.note(verdict, what, reason)
    socket.destroy()
    over()
  }
  const socket = connect({ ...target, noDelay: true })
  socket.on('connect', () => {
    verdicts.counts.opened++
    socket.write(`${head}\r\n\r\n`)
  })
  socket.on('data', chunk => {
    if (left) return
    const taken = reply.feed(chunk)
    const fault = wrong || reply.wrong
    if (fault !== '') leave('wrong', fault)
    else if (reply.status >= 300) leave('failed', `status ${reply.status}`)
    else if (reply.done) {
      const last = taken < chunk.length ? `${chunk.length - taken} bytes behind the answer` : end(reply)
      if (last === '') verdicts.took(performance.now() - begun)
      leave(last === '' ? null : 'wrong', last)
    }
  })
  const gone = (/** @type {Error | null} */ error) => {
    if (reply.head === '') leave('failed', `${ending(error)} in place of an answer`)
    else leave('closed', `${ending(error)} within the answer`)
  }
  socket.on('end', () => gone(null))
  socket.on('error', gone)
  socket.on('close', () => gone(null))
  return { socket, leave: () => leave(null, '') }
}

/**
 * Keeps `count` of something going, each begun again when it is over.
 * @param {number} count
 * @param {(number: number, over: () => void) => void} begin
 */
function keepGoing(count, begin) {
  let number = 0
  let open = 0
  let stopping = false
  const next = () => {
    open++
    begin(number++, () => {
      open--
      if (!stopping) next()
    })
  }
  for (let at = 0; at < count; at++) next()
  return {
    get open() {
      return open
    },
    /** Begins none any more; resolves when the last is over. */
    async stop() {
      stopping = true
      const until = performance.now() + STOP_MS
      while (open > 0 && performance.now() < until) await new Promise(resolve => setTimeout(resolve, 20))
      return open
    },
  }
}

/** Whoever goes on at the end would hide a loss. @param {ReturnType<typeof keepGoing>} going @param {Verdicts} verdicts */
function untilOver(going, verdicts) {
  return {
    get ready() {
      return true
    },
    get open() {
      return going.open
    },
    async stop() {
      const left = await going.stop()
      if (left > 0) verdicts.note('failed', 'all', `${left} were not over after ${STOP_MS} ms`)
    },
  }
}

/** @param {{ target: Target, count: number, ms: number, run: string, verdicts: Verdicts }} options */
export function startSlow({ target, count, ms, run, verdicts }) {
  const going = keepGoing(count, (number, over) => {
    const id = `${run}-${number}`
    let text = ''
    request({
      target,
      head: `GET /slow/${id}?ms=${ms} HTTP/1.1\r\nHost: clients.test`,
      what: id,
      verdicts,
      body: bytes => {
        text += bytes.toString('latin1')
        return ''
      },
      end: () => (text === `${id} slow but sure\n` ? '' : JSON.stringify(text.slice(0, 60))),
      over,
    })
  })
  return untilOver(going, verdicts)
}

/** @param {{ target: Target, count: number, everyMs: number, verdicts: Verdicts }} options */
export function startEvents({ target, count, everyMs, verdicts }) {
  let open = count
  const all = Array.from({ length: count }, (_, number) => {
    const id = String(number)
    let event = 0
    let rest = ''
    return request({
      target,
      head: `GET /events/${id}?every=${everyMs} HTTP/1.1\r\nHost: clients.test\r\nAccept: text/event-stream`,
      what: id,
      verdicts,
      body: bytes => {
        rest += bytes.toString('latin1')
        for (;;) {
          const wanted = eventText(id, event)
          if (rest.length < wanted.length) return wanted.startsWith(rest) ? '' : `event ${event}: other bytes`
          if (!rest.startsWith(wanted)) return `event ${event}: other bytes`
          rest = rest.slice(wanted.length)
          event++
          verdicts.counts.messages++
        }
      },
      end: () => 'the stream ended',
      over: () => {
        open--
      },
    })
  })
  return {
    get ready() {
      return verdicts.counts.messages >= count
    },
    get open() {
      return open
    },
    /** Every stream must have said something new. */
    async stop() {
      const wanted = verdicts.counts.messages + open * 2
      const until = performance.now() + STOP_MS
      while (verdicts.counts.messages < wanted && open > 0 && performance.now() < until)
        await new Promise(resolve => setTimeout(resolve, 20))
      for (const each of all) each.leave()
    },
  }
}

/**
 * Uploads of `bytes`, by length and in chunks in turn, in bursts with pauses between.
 * @param {{ target: Target, count: number, bytes: number, stallMs: number, run: number, verdicts: Verdicts }} options
 */
export function startUploads({ target, count, bytes, stallMs, run, verdicts }) {
  const going = keepGoing(count, (number, over) => {
    const seed = run + number
    const chunked = number % 2 === 1
    let text = ''
    let at = 0
    let turn = 0
    const { socket } = request({
      target,
      head: `PUT /upload/${seed}/${bytes} HTTP/1.1\r\nHost: clients.test\r\n${chunked ? 'Transfer-Encoding: chunked' : `Content-Length: ${bytes}`}`,
      what: String(seed),
      verdicts,
      body: piece => {
        text += piece.toString('latin1')
        return ''
      },
      end: () => (text === `ok ${bytes}\n` ? '' : JSON.stringify(text.slice(0, 60))),
      over,
    })
    const burst = () => {
      if (socket.destroyed) return
      const until = Math.min(bytes, at + 1 + (mixed(seed, turn) % BURST_BYTES))
      while (at < until && socket.writableLength < WAITING_BYTES) {
        const length = Math.min(MOST, until - at)
        if (chunked) socket.write(`${length.toString(16)}\r\n`)
        socket.write(patternAt(seed, at, length))
        if (chunked) socket.write('\r\n')
        at += length
      }
      if (at < bytes) setTimeout(burst, mixed(turn++, seed) % (2 * stallMs))
      else if (chunked) socket.write('0\r\n\r\n')
    }
    socket.on('connect', burst)
  })
  return untilOver(going, verdicts)
}

/**
 * Downloads of `bytes`, by length and in chunks in turn, read in bursts with pauses between.
 * @param {{ target: Target, count: number, bytes: number, stallMs: number, run: number, verdicts: Verdicts }} options
 */
export function startDownloads({ target, count, bytes, stallMs, run, verdicts }) {
  const going = keepGoing(count, (number, over) => {
    const seed = run + number
    const check = new PatternCheck(seed)
    let burst = 0
    let turn = 0
    const { socket } = request({
      target,
      head: `GET /download/${seed}/${bytes}${number % 2 === 1 ? '?chunked' : ''} HTTP/1.1\r\nHost: clients.test`,
      what: String(seed),
      verdicts,
      body: piece => {
        burst += piece.length
        if (burst > mixed(seed, turn) % BURST_BYTES) {
          burst = 0
          socket.pause()
          setTimeout(() => socket.resume(), mixed(turn++, seed) % (2 * stallMs))
        }
        return check.feed(piece) ? '' : `byte ${check.wrongAt} is another`
      },
      end: () => (check.position === bytes ? '' : `${check.position} of ${bytes} bytes`),
      over,
    })
  })
  return untilOver(going, verdicts)
}
