// @ts-check
// So many requests a second, sent when they are due, whatever became of those before (an open loop): on keep-alive
// connections of which there are as many as are needed, and each so-many-th on a connection of its own. Latency counts from
// the moment when a request was due.
import { Histogram } from '../load/histogram.mjs'
import { RequestConnection } from './request-connection.mjs'

const TICK_MS = 2
const CONNECTIONS = 64
/** While all are busy more are opened, up to so many; then requests wait, and are late. */
const MOST_CONNECTIONS = 1024
const FRESH_EVERY = 20

/** What happened between two marks. @typedef {{ name: string, perSecond: number, p50: number, p99: number, max: number }} Span */

/**
 * @param {object} options
 * @param {import('node:net').TcpNetConnectOpts} options.target
 * @param {number} options.rate requests a second
 * @param {number} [options.deadlineMs] for an answer
 * @param {import('./verdicts.mjs').Verdicts} options.verdicts
 */
export function startSteady({ target, rate, deadlineMs = 10_000, verdicts }) {
  /** @type {Set<RequestConnection>} */
  const all = new Set()
  /** @type {RequestConnection[]} */
  const free = []
  /** Due times of those that no connection was free for. @type {number[]} */
  const waiting = []
  let ids = 0
  let sent = 0
  let next = performance.now()
  let stopping = false
  let span = { name: 'start', from: next, histogram: new Histogram() }
  /** Says which process answered last. */
  let head = ''

  /** @param {boolean} fresh @param {(connection: RequestConnection) => void} use */
  function open(fresh, use) {
    const connection = new RequestConnection({
      id: 20_000_000 + ids++,
      target,
      verdicts,
      opened: () => use(connection),
      answered: (due, reply) => {
        span.histogram.add(performance.now() - due)
        head = reply.head
        if (fresh) connection.close()
        else if (reply.announcesClose) connection.end('closed', 'its end was announced')
        else release(connection)
      },
      gone: () => all.delete(connection),
    })
    all.add(connection)
  }

  /** @param {RequestConnection} connection */
  function release(connection) {
    const due = waiting.shift()
    if (due === undefined) free.push(connection)
    else connection.ask(due)
  }

  /** @param {number} due */
  function send(due) {
    if (sent++ % FRESH_EVERY === 0) {
      open(true, connection => connection.ask(due))
      return
    }
    for (let connection = free.shift(); connection; connection = free.shift()) {
      if (connection.state !== 'idle') continue
      connection.ask(due)
      return
    }
    if (all.size < MOST_CONNECTIONS) open(false, connection => connection.ask(due))
    else waiting.push(due)
  }

  for (let n = 0; n < CONNECTIONS; n++) open(false, release)
  const ticking = setInterval(() => {
    const now = performance.now()
    if (!stopping) for (; next <= now; next += 1000 / rate) send(next)
  }, TICK_MS)
  const sweeping = setInterval(() => {
    for (const connection of all) connection.expire(deadlineMs)
  }, 250)

  return {
    get ready() {
      return verdicts.counts.answered > rate / 4
    },
    get open() {
      return all.size
    },
    /** The process that answered last, by its `X-Pid`. */
    get pid() {
      return Number(/\r\nx-pid: *(\d+)/i.exec(head)?.[1] ?? 0)
    },
    /** Ends a span of time and begins the next. @param {string} name @returns {Span} */
    mark(name) {
      const now = performance.now()
      const { histogram } = span
      const ended = {
        name: span.name,
        perSecond: Math.round(histogram.count / Math.max(0.001, (now - span.from) / 1000)),
        p50: histogram.quantile(0.5),
        p99: histogram.quantile(0.99),
        max: histogram.max,
      }
      span = { name, from: now, histogram: new Histogram() }
      return ended
    },
    async stop() {
      stopping = true
      const until = performance.now() + deadlineMs
      const busy = () => waiting.length > 0 || [...all].some(({ state }) => state === 'asked')
      while (busy() && performance.now() < until) await new Promise(resolve => setTimeout(resolve, 10))
      for (const connection of all) connection.expire(0)
      clearInterval(ticking)
      clearInterval(sweeping)
      for (const connection of all) connection.close()
    },
  }
}
