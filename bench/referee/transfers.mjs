// @ts-check
// Requests that take long: slow answers, streams of events, uploads and downloads with clients that stall.
import { Connection } from './connection.mjs'
import { eventText, MOST, mixed, PatternCheck, patternAt } from './pattern.mjs'
import { same, wrong } from './workload.mjs'

/** @typedef {import('./verdicts.mjs').Verdicts} Verdicts */
/** @typedef {import('node:net').NetConnectOpts} Target */

/** The longest that a transfer, or what is left of it at the end, may take. */
const STOP_MS = 120_000
/** No more is written or read at a time. */
const BURST_BYTES = 512 * 1024
/** Bytes that may wait in our own process before an upload pauses. */
const WAITING_BYTES = 256 * 1024

/**
 * One request on a connection of its own, which stays open behind the answer until we close it.
 * @param {object} options
 * @param {Target} options.target
 * @param {string} options.head without its empty line
 * @param {string} options.what
 * @param {Verdicts} options.verdicts
 * @param {import('./answer.mjs').OnBody} [options.body] looks at the body as it comes
 * @param {(body: string) => import('./workload.mjs').Fault | null} options.end looks at the whole answer
 * @param {() => void} options.over once, whatever became of it
 * @param {() => void} [options.opened]
 */
function request({ target, head, what, verdicts, body, end, over, opened }) {
  const begun = performance.now()
  const connection = new Connection(
    target,
    () => {},
    () => {
      verdicts.seen.opened++
      opened?.()
    },
  )
  /** @param {Buffer} bytes @param {number} status */
  const onBody = (bytes, status) => {
    verdicts.seen.bytes += bytes.length
    return status >= 300 ? '' : (body?.(bytes, status) ?? '')
  }
  const leave = () => {
    connection.close()
    over()
  }
  connection.send(
    `${head}\r\n\r\n`,
    ({ kind, reason, answer }) => {
      const fault = kind === null ? (answer.status < 300 ? end(answer.body) : null) : { kind, reason }
      if (fault) verdicts.note(fault.kind, what, fault.reason)
      else if (answer.status >= 300) verdicts.note('denied', what, `status ${answer.status}`)
      else verdicts.took(performance.now() - begun)
      leave()
    },
    body && onBody,
  )
  return { socket: connection.socket, leave }
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

/** Ends each transfer in time: one that goes on at the end would hide a loss. @param {ReturnType<typeof keepGoing>} going @param {Verdicts} verdicts */
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
      if (left > 0) verdicts.note('dropped', 'all', `${left} were not over after ${STOP_MS} ms`)
    },
  }
}

/** @param {{ target: Target, count: number, ms: number, run: string, verdicts: Verdicts }} options */
export function startSlow({ target, count, ms, run, verdicts }) {
  const going = keepGoing(count, (number, over) => {
    const id = `${run}-${number}`
    request({
      target,
      head: `GET /slow/${id}?ms=${ms} HTTP/1.1\r\nHost: clients.test`,
      what: id,
      verdicts,
      end: text => same('slow', text, `${id} slow but sure\n`),
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
          verdicts.seen.messages++
        }
      },
      end: () => ({ kind: 'truncated', reason: 'the stream ended' }),
      over: () => {
        open--
      },
    })
  })
  return {
    get ready() {
      return verdicts.seen.messages >= count
    },
    get open() {
      return open
    },
    /** Every stream must have said something new. */
    async stop() {
      const wanted = verdicts.seen.messages + open * 2
      const until = performance.now() + STOP_MS
      while (verdicts.seen.messages < wanted && open > 0 && performance.now() < until)
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
    let at = 0
    let turn = 0
    const { socket } = request({
      target,
      head: `PUT /upload/${seed}/${bytes} HTTP/1.1\r\nHost: clients.test\r\n${chunked ? 'Transfer-Encoding: chunked' : `Content-Length: ${bytes}`}`,
      what: String(seed),
      verdicts,
      end: text => same('upload', text, `ok ${bytes}\n`),
      over,
      opened: () => burst(),
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
      end: () => (check.position === bytes ? null : wrong(`${check.position} of ${bytes} bytes`)),
      over,
    })
  })
  return untilOver(going, verdicts)
}
