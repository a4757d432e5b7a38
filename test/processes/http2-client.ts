import http2 from 'node:http2'
import { onTestFinished } from 'vitest'

/** Counts of a client: every request is in one of them in the end. */
interface Counts {
  answered: number
  /** The server has not answered whole: by code and message. */
  failed: string[]
  /** Never sent, because the client knew of the session's end when it was about to send it. */
  unsent: number
  /** Sessions that have ended with an error. */
  brokenSessions: string[]
}

/** The longest pause of a stream before its next request, so that the client leaves the processor to the servers; each stream has another. */
const PAUSE_MS = 10

/** Requests that begin together, if their number in a second is given. */
const TOGETHER_MS = 10

/**
 * A client that has `streams` requests under way, or with `perSecond` begins so many, on one session after the other: when the server says that one
 * ends, it makes the next.
 */
export class Http2Client {
  readonly counts: Counts = { answered: 0, failed: [], unsent: 0, brokenSessions: [] }
  readonly #url: string
  readonly #path: string
  readonly #open = new Set<http2.ClientHttp2Session>()
  readonly #answers = new Map<number, number>()
  #session: http2.ClientHttp2Session
  #underWay = 0
  #goesOn = true
  #ended = () => {}

  constructor(
    url: string,
    { path, streams = 0, perSecond = 0 }: { path: string; streams?: number; perSecond?: number },
  ) {
    this.#url = url
    this.#path = path
    this.#session = this.#connect()
    for (let i = 0; i < streams; i++) this.#request(i)
    const each = (perSecond * TOGETHER_MS) / 1_000
    let due = 0
    let at = performance.now()
    const timer = setInterval(() => {
      const now = performance.now()
      due += ((now - at) / TOGETHER_MS) * each
      at = now
      for (; due >= 1; due--) this.#request(null)
    }, TOGETHER_MS)
    onTestFinished(() => {
      clearInterval(timer)
      this.#goesOn = false
      for (const session of this.#open) session.destroy()
    })
  }

  /** The number of answers of this process. */
  answersBy(pid: number): number {
    return this.#answers.get(pid) ?? 0
  }

  /** Makes no more requests, and waits for the answers of the others. */
  async end(): Promise<Counts> {
    this.#goesOn = false
    if (this.#underWay > 0) await new Promise<void>(resolve => (this.#ended = resolve))
    return this.counts
  }

  #connect(): http2.ClientHttp2Session {
    const session = http2.connect(this.#url, { rejectUnauthorized: false })
    this.#open.add(session)
    session.on('close', () => this.#open.delete(session))
    session.on('error', error => this.counts.brokenSessions.push(String(error)))
    session.on('goaway', () => {
      if (this.#session === session) this.#session = this.#connect()
    })
    return session
  }

  /** `number`: of a stream, which goes on with the next request after a pause. */
  #request(number: number | null): void {
    if (!this.#goesOn) return
    if (this.#session.closed || this.#session.destroyed) this.#session = this.#connect()
    this.#underWay++
    const stream = this.#session.request({ ':path': this.#path })
    let pid = 0
    let isSent = true
    let whole = false
    let failure = 'no answer'
    stream.on('response', headers => (pid = Number(headers['x-pid'])))
    stream.on('end', () => (whole = pid > 0))
    stream.resume()
    stream.on('frameError', () => (isSent = false))
    stream.on('error', error => (failure = String(error)))
    stream.on('close', () => {
      this.#underWay--
      if (!isSent) this.counts.unsent++
      else if (!whole) this.counts.failed.push(failure)
      else {
        this.counts.answered++
        this.#answers.set(pid, this.answersBy(pid) + 1)
      }
      if (this.#goesOn && number !== null) setTimeout(() => this.#request(number), number % PAUSE_MS)
      else if (!this.#goesOn && this.#underWay === 0) this.#ended()
    })
  }
}
