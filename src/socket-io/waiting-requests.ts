import type http from 'node:http'
import { type EngineRequest, queryOf, type Verified } from './internals.js'

/** A poll is answered after this time, because the client may wait for the answer before it continues by websocket (milliseconds). */
const POLL_MS = 150
/** A session that does not arrive within this time is unknown: on a busy machine thousands of sessions take seconds. */
export const ARRIVE_MS = 15_000
/** Most sessions whose first request is remembered: clients may ask for any number that there never were. */
const MOST_REMEMBERED = 10_000
/** No session has a longer name. */
const LONGEST_SID = 1_024

interface Waiting {
  readonly request: EngineRequest
  readonly pass: () => void
  timer: NodeJS.Timeout
}

/** Requests for sessions that another process may still have. */
export class WaitingRequests {
  readonly #waiting = new Map<string, Set<Waiting>>()
  /** When a request for each session came first (performance.now()). */
  readonly #since = new Map<string, number>()

  /** Calls `verify` when the session has arrived, or is given up. `done`: see `verify()` of the engine. */
  add(request: EngineRequest, upgrade: boolean, verify: (done: Verified) => void, done: Verified): void {
    const { sid = '' } = queryOf(request)
    const now = performance.now()
    const since = this.#since.get(sid) ?? now
    const left = since + ARRIVE_MS - now
    if (left <= 0 || sid.length > LONGEST_SID) {
      verify(done)
      return
    }
    this.#remember(sid, since)
    const { res } = request
    const polls = !upgrade && request.method === 'GET' && res
    const pass = () => {
      // The client has gone: a session would wait for the end of this request for ever.
      if (!request.socket.destroyed) verify(done)
    }
    const end = () => {
      this.#remove(sid, one)
      if (polls) answerNoop(request, res)
      else pass()
    }
    const one: Waiting = { request, pass, timer: setTimeout(end, polls ? Math.min(POLL_MS, left) : left) }
    const all = this.#waiting.get(sid)
    if (all === undefined) this.#waiting.set(sid, new Set([one]))
    else all.add(one)
  }

  #remove(sid: string, one: Waiting): void {
    const all = this.#waiting.get(sid)
    all?.delete(one)
    if (all?.size === 0) this.#waiting.delete(sid)
  }

  #remember(sid: string, since: number): void {
    this.#since.set(sid, since)
    if (this.#since.size <= MOST_REMEMBERED) return
    const [oldest = ''] = this.#since.keys()
    this.#since.delete(oldest)
  }

  arrived(sid: string): void {
    this.#since.delete(sid)
    this.#pass(sid)
  }

  /** The session does not arrive: its client connects again. */
  giveUp(sid: string): void {
    this.#remember(sid, Number.NEGATIVE_INFINITY)
    this.#pass(sid)
  }

  #pass(sid: string): void {
    const all = this.#waiting.get(sid)
    this.#waiting.delete(sid)
    for (const { pass, timer } of all ?? []) {
      clearTimeout(timer)
      // The session is announced first.
      process.nextTick(pass)
    }
  }
}

/** Answers requests of a session that another process has: a poll by nothing, other requests when `receive` has resolved. */
export function redirect(
  request: EngineRequest,
  mostBytes: number,
  receive: (payload: string) => Promise<void>,
): void {
  const { res } = request
  request.res = null
  if (!res) return
  res.setHeader('Connection', 'close')
  if (request.method === 'GET') answerNoop(request, res)
  else if (request.method === 'POST') readPayload(request, res, mostBytes, receive)
  else res.writeHead(500).end()
}

/** Lets the client poll again. */
function answerNoop(request: EngineRequest, res: http.ServerResponse): void {
  const payload = queryOf(request)['EIO'] === '4' ? '6' : '1:6'
  const type = 'text/plain; charset=UTF-8'
  res.writeHead(200, { 'content-type': type, 'content-length': payload.length, 'cache-control': 'no-store' })
  res.end(payload)
}

function readPayload(
  request: EngineRequest,
  res: http.ServerResponse,
  mostBytes: number,
  receive: (payload: string) => Promise<void>,
): void {
  const parts: Buffer[] = []
  let bytes = 0
  request.on('data', (part: Buffer) => {
    bytes += part.length
    if (bytes <= mostBytes) parts.push(part)
  })
  request.on('end', () => {
    if (bytes > mostBytes) {
      res.writeHead(413).end()
      return
    }
    void receive(Buffer.concat(parts).toString()).then(() => {
      res.writeHead(200, { 'content-type': 'text/html', 'content-length': 2, 'cache-control': 'no-store' })
      res.end('ok')
    })
  })
}
