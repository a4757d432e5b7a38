// @ts-check
import { Connection } from './connection.mjs'
import { shopWorkload } from './shop.mjs'
import { Tally } from './tally.mjs'
import { parseTarget } from './target.mjs'
import { Verdicts } from './verdicts.mjs'
import { startWebSockets } from './websocket.mjs'

/**
 * @typedef {import('./verdicts.mjs').Loss | import('./verdicts.mjs').Note} Kind
 * @typedef {import('./verdicts.mjs').Incident} Incident
 * @typedef {import('./tally.mjs').TallyReport} TallyReport
 * @typedef {import('./tally.mjs').Part} Part
 * @typedef {object} LoadOptions
 * @property {string} target see parseTarget
 * @property {number} [rate] requests a second over pool and fresh connections (1200)
 * @property {number} [connections] keep-alive connections; more are opened while all are busy (32, up to 8 times)
 * @property {boolean} [stays] they are open from the start, and to stay: an end that is announced counts too (false)
 * @property {number} [freshShare] share of `rate` on connections of their own (0.1)
 * @property {number} [freshMost] how many of them are open at once; requests that find no place are not sent (any number)
 * @property {number} [slow] slow requests a second (2)
 * @property {number} [streams] streams a second (1)
 * @property {number} [writes] writes a second (20)
 * @property {number} [idle] connections that sit idle and are used now and then (20)
 * @property {number} [idleEveryMs] each idle connection is used once in this time (4000)
 * @property {number} [deadlineMs] an answer later than this is `dropped`; counted from the intended start (5000)
 * @property {number} [slowExtraMs] how much longer slow answers and streams may take (5000)
 * @property {number} [lateMs] a right answer later than this is `late` (1000)
 * @property {number} [webSockets] open at a time, at `/ws` of an http target (0)
 * @property {import('./workload.mjs').Workload} [workload] shopWorkload()
 * @property {string} [host] that requests name, in place of the target's
 * @property {Verdicts} [verdicts] where everything is noted
 *
 * @typedef {object} LoadReport
 * @property {TallyReport} total
 * @property {TallyReport[]} phases one for each mark; the first is named `start`
 * @property {Incident[]} incidents the first 200 things that went wrong
 * @property {{ open: number, opened: number, messages: number }} webSockets before the last ones were closed
 * @property {number} ownLagMs the most that this process was late itself: the referee's error
 *
 * @typedef {{ at: number, perSecond: number, p99Ms: number, failed: number }} Span the last whole span of time; `at`: its end, ms since 1970
 *
 * @typedef {object} Load
 * @property {number} open connections
 * @property {() => TallyReport & { phase: TallyReport, span: Span | null }} snapshot counters so far
 * @property {(name: string) => TallyReport} mark ends the phase and begins the next; the report of the one that ended
 * @property {(part: Part | null) => void} part what begins now: the window of an upgrade, the time between two, or neither
 * @property {() => Promise<LoadReport>} stop no more arrivals; waits for what is outstanding (bounded by its deadline)
 *
 * @typedef {{ request: import('./workload.mjs').Request, intended: number, due: number, timed: boolean, fresh: boolean, part: Part | null,
 *   connection: Connection | null, settle: (connection: Connection) => void }} Exchange
 */

const INCIDENTS = 200
/** The length of a span, for a plot. */
const SPAN_MS = 200
const POOL_GROWTH = 8
const RETRY_AFTER_MS = 50

/**
 * Starts an open-loop load: arrivals are scheduled by the clock and do not wait for answers, and latency counts from the
 * intended start, so that a stall of the server shows in every request that fell into it.
 * @param {LoadOptions} options
 * @returns {Load}
 */
export function startLoad(options) {
  const { rate = 1200, connections = 32, freshShare = 0.1, slow = 2, streams = 1, writes = 20 } = options
  const { idle = 20, idleEveryMs = 4000, deadlineMs = 5000, slowExtraMs = 5000, lateMs = 1000 } = options
  const { webSockets = 0, stays = false } = options
  const target = parseTarget(options.target)
  const workload = options.workload ?? shopWorkload()
  const begun = performance.now()
  const total = new Tally('total', begun)
  let phase = new Tally('start', begun)
  let spanBegun = begun
  let span = new Tally('', begun)
  /** @type {Span | null} */
  let lastSpan = null
  /** @type {TallyReport[]} */
  const phases = []
  const { verdicts = new Verdicts(INCIDENTS), host = target.host } = options
  /** @type {Set<Exchange>} */
  const active = new Set()
  /** @type {Set<Connection>} */
  const open = new Set()
  /** @type {Connection[]} */
  const free = []
  /** @type {Exchange[]} */
  const waiting = []
  let pooled = 0
  /** @type {Part | null} */
  let part = null
  let arriving = true
  let ownLagMs = 0

  /** @param {import('./verdicts.mjs').Kind} kind @param {string} what @param {string} reason */
  function count(kind, what, reason) {
    verdicts.note(kind, what, reason)
    if (kind === 'announced' || kind === 'denied') return
    total.counts[kind]++
    phase.counts[kind]++
    span.counts[kind]++
  }

  /** @param {string} role @param {() => void} [gone] */
  function connection(role, gone) {
    /** @type {Connection} */
    const made = new Connection(
      target.connect,
      (kind, reason) => {
        open.delete(made)
        gone?.()
        if (kind !== null) count(kind, role, reason)
      },
      () => verdicts.seen.opened++,
    )
    open.add(made)
    return made
  }

  /** @param {Exchange} exchange @param {Connection} on */
  function send(exchange, on) {
    const { method, path, body } = exchange.request
    let head = `${method} ${path} HTTP/1.1\r\nHost: ${host}\r\n`
    if (body !== undefined) head += `Content-Length: ${body.length}\r\n`
    if (exchange.fresh) head += 'Connection: close\r\n'
    exchange.connection = on
    on.send(`${head}\r\n${body ?? ''}`, outcome => finish(exchange, on, outcome))
  }

  /** @param {Exchange} exchange @param {Connection} on @param {import('./connection.mjs').Outcome} outcome */
  function finish(exchange, on, outcome) {
    const { request } = exchange
    const { answer } = outcome
    const what = `${request.method} ${request.path}`
    const now = performance.now()
    if (!on.usable) open.delete(on)
    if (
      outcome.kind === null &&
      request.method !== 'GET' &&
      answer.status === 503 &&
      answer.headers.has('retry-after')
    ) {
      // Not done, and says so: the one answer that a client repeats.
      count('retried', what, answer.body.slice(0, 80))
      exchange.settle(on)
      exchange.connection = null
      setTimeout(() => active.has(exchange) && dispatch(exchange), RETRY_AFTER_MS)
      return
    }
    active.delete(exchange)
    const fault =
      outcome.kind === null ? request.check(answer) : { kind: outcome.kind, reason: outcome.reason }
    if (fault) {
      count(fault.kind, what, fault.reason)
    } else {
      const latency = now - exchange.intended
      const generation = `${answer.headers.get('x-generation') ?? '?'}/${answer.headers.get('x-pid') ?? '?'}`
      verdicts.took(latency)
      const within = exchange.part === 'inside' || part === 'inside'
      const fell = within ? 'inside' : exchange.part === part ? part : null
      for (const tally of [total, phase, span])
        tally.answer(now, generation, exchange.timed ? latency : null, fell)
      if (stays && !exchange.fresh && answer.announcesClose) count('announced', what, 'its end was announced')
      if (exchange.timed && latency > lateMs) count('late', what, `${latency.toFixed(0)} ms`)
    }
    request.settled?.(outcome.kind === null)
    exchange.settle(on)
  }

  /**
   * @param {import('./workload.mjs').Request} request
   * @param {number} intended
   * @param {Partial<Exchange> & { extraMs?: number }} [how]
   */
  function begin(request, intended, { extraMs = 0, ...how } = {}) {
    /** @type {Exchange} */
    const exchange = {
      request,
      intended,
      due: intended + deadlineMs + extraMs,
      timed: true,
      fresh: false,
      part,
      connection: null,
      settle: release,
      ...how,
    }
    active.add(exchange)
    total.sent++
    phase.sent++
    return exchange
  }

  // The pool: first in, first out, so that every connection is used.

  /** @param {Exchange} exchange */
  function dispatch(exchange) {
    for (let next = free.shift(); next; next = free.shift()) if (next.usable) return send(exchange, next)
    if (pooled >= connections * POOL_GROWTH) return void waiting.push(exchange)
    pooled++
    send(
      exchange,
      connection('pool', () => pooled--),
    )
  }

  /** @param {Connection} on */
  function release(on) {
    if (on.usable) free.push(on)
    else pooled--
    for (let next = waiting.shift(); next; next = waiting.shift()) if (active.has(next)) return dispatch(next)
  }

  if (stays) {
    for (; pooled < connections; pooled++) free.push(connection('pool', () => pooled--))
  }

  // One idle connection each slot, made when first used and again after it has gone.

  /** @type {(Connection | null)[]} */
  const idlers = new Array(idle).fill(null)
  const idlerBusy = new Array(idle).fill(false)
  let idlerTurn = 0

  /** @param {number} intended */
  function useIdler(intended) {
    const slot = idlerTurn++ % idle
    if (idlerBusy[slot]) return
    const before = idlers[slot]
    const on = before?.usable ? before : connection('idle')
    idlers[slot] = on
    idlerBusy[slot] = true
    const settle = () => {
      idlerBusy[slot] = false
    }
    send(begin(workload.read(), intended, { settle }), on)
  }

  const { freshMost = Number.POSITIVE_INFINITY } = options
  let freshOpen = 0
  /** The server ends these: it is told that each request is the last. */
  const own = { fresh: true, settle: () => void freshOpen-- }
  /** @param {number} intended */
  function useFresh(intended) {
    if (freshOpen >= freshMost) return
    freshOpen++
    send(begin(workload.read(), intended, own), connection('fresh'))
  }

  const schedules = [
    arrivals(rate * (1 - freshShare), at => dispatch(begin(workload.read(), at))),
    arrivals(rate * freshShare, useFresh),
    arrivals(slow, at => dispatch(begin(workload.slow(), at, { timed: false, extraMs: slowExtraMs }))),
    arrivals(streams, at => dispatch(begin(workload.stream(), at, { timed: false, extraMs: slowExtraMs }))),
    arrivals((idle * 1000) / idleEveryMs, useIdler),
    arrivals(writes, at => {
      const request = workload.write()
      if (request) dispatch(begin(request, at))
    }),
  ]

  /** @param {number} perSecond @param {(intended: number) => void} fire */
  function arrivals(perSecond, fire) {
    if (perSecond <= 0) return () => {}
    const every = 1000 / perSecond
    let next = begun + every
    return (/** @type {number} */ now) => {
      ownLagMs = Math.max(ownLagMs, now - next)
      for (; next <= now; next += every) fire(next)
    }
  }

  const url = `${options.target.replace(/^http:/, 'ws:')}/ws`
  const talking = startWebSockets({ url, count: webSockets, deadlineMs, lost: count })

  const ticking = setInterval(() => {
    const now = performance.now()
    for (const arrive of schedules) arrive(now)
  }, 1)

  const sweeping = setInterval(() => {
    const now = performance.now()
    for (const exchange of active) {
      if (now < exchange.due) continue
      if (exchange.connection) {
        exchange.connection.expire()
      } else {
        active.delete(exchange)
        count(
          'dropped',
          `${exchange.request.method} ${exchange.request.path}`,
          'no connection was free before the deadline',
        )
        exchange.request.settled?.(true)
      }
    }
  }, 20)

  return {
    get open() {
      return open.size
    },
    snapshot() {
      const now = performance.now()
      if (now - spanBegun >= SPAN_MS) {
        const { latencyMs, lost, perSecond } = span.report(now, arriving)
        lastSpan = { at: Date.now(), perSecond, p99Ms: latencyMs.p99, failed: lost }
        span = new Tally('', now)
        spanBegun = now
      }
      return { ...total.report(now, arriving), phase: phase.report(now, arriving), span: lastSpan }
    },
    mark(name) {
      const now = performance.now()
      const ended = phase.report(now, arriving)
      phases.push(ended)
      phase = new Tally(name, now)
      verdicts.phase = name
      return ended
    },
    part(next) {
      part = next
    },
    async stop() {
      const now = performance.now()
      clearInterval(ticking)
      const talked = talking.report()
      // Gaps are judged now: while the last answers trickle in, the load sends nothing.
      const gaps = [total.report(now, true).worstGapMs, phase.report(now, true).worstGapMs]
      arriving = false
      await talking.stop()
      while (active.size > 0) await new Promise(resolve => setTimeout(resolve, 10))
      clearInterval(sweeping)
      for (const each of open) each.close()
      phases.push({ ...phase.report(now, false), worstGapMs: gaps[1] ?? 0 })
      const whole = { ...total.report(now, false), worstGapMs: gaps[0] ?? 0 }
      return { total: whole, phases, incidents: verdicts.incidents, webSockets: talked, ownLagMs }
    },
  }
}
