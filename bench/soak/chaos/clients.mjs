// @ts-check
// Clients that ask at fixed times, whatever has become of earlier requests, and remember what was acknowledged.
import http from 'node:http'

/** A request that takes longer has failed. */
const PATIENCE_MS = 20_000
/** A change that failed is asked for again, under its id, for so long. */
const INSIST_MS = 30_000
/** The kinds of twenty requests. */
const KINDS = [
  ...Array(9).fill('read'),
  ...Array(5).fill('memory'),
  ...Array(4).fill('count'),
  ...Array(2).fill('durable'),
]

/** @typedef {'read' | 'memory' | 'count' | 'durable'} Kind */
/** @typedef {{ kind: Kind, why: string, afterMs: number, tookMs: number }} Failure */

/** The requests of one round. */
export class Round {
  asked = 0
  /** @type {Failure[]} */
  failures = []
  /** Keys of acknowledged changes. @type {Set<string>} */
  memory = new Set()
  /** @type {Set<string>} */
  durable = new Set()
  counted = 0
  /** Changes of which it is not known whether they were made. */
  unknown = { memory: 0, durable: 0, count: 0 }
  slowestMs = 0
  startedAt = performance.now()

  /** @param {number} number */
  constructor(number) {
    this.number = number
    this.prefix = `r${number}-`
    this.counter = `c${number}`
  }
}

export class Clients {
  #port
  #kept = new http.Agent({ keepAlive: true })
  #fresh = new http.Agent({ keepAlive: false })
  #timer
  /** @type {Round | null} */
  #round = null
  #number = 0
  #due = 0
  #rate
  /** @type {Set<Promise<void>>} */
  #under = new Set()

  /** @param {number} port @param {number} rate requests a second */
  constructor(port, rate) {
    this.#port = port
    this.#rate = rate
    this.#timer = setInterval(() => this.#tick(), 5)
  }

  /** @param {Round} round */
  begin(round) {
    this.#due = performance.now()
    this.#round = round
  }

  /** Asks nothing more for this round, and waits for what is under way. */
  async pause() {
    this.#round = null
    await Promise.all([...this.#under])
  }

  end() {
    clearInterval(this.#timer)
    this.#kept.destroy()
    this.#fresh.destroy()
  }

  #tick() {
    const round = this.#round
    if (round === null) return
    for (const now = performance.now(); this.#due <= now; this.#due += 1_000 / this.#rate) {
      const number = ++this.#number
      const kind = /** @type {Kind} */ (KINDS[(number * 7) % KINDS.length])
      const under = this.#work(round, kind, number).finally(() => this.#under.delete(under))
      this.#under.add(under)
    }
  }

  /** @param {Round} round @param {Kind} kind @param {number} number */
  async #work(round, kind, number) {
    const key = kind === 'count' ? round.counter : `${round.prefix}${number}`
    const path = kind === 'read' ? '/' : `/${kind}/${key}`
    const begun = performance.now()
    for (let first = true; ; first = false) {
      const sent = performance.now()
      const why = await this.#ask(path, `id-${number}`, number % 10 === 0 ? this.#fresh : this.#kept)
      const now = performance.now()
      if (first) {
        round.asked++
        round.slowestMs = Math.max(round.slowestMs, now - sent)
        if (why !== null)
          round.failures.push({ kind, why, afterMs: sent - round.startedAt, tookMs: now - sent })
      }
      if (kind === 'read') return
      if (why === null) {
        if (kind === 'count') round.counted++
        else round[kind].add(key)
        return
      }
      if (now - begun > INSIST_MS) {
        round.unknown[kind]++
        return
      }
      await new Promise(resolve => setTimeout(resolve, 50))
    }
  }

  /** Returns null for an answer with 200, otherwise the failure. @param {string} path @param {string} id @param {http.Agent} agent @returns {Promise<string | null>} */
  #ask(path, id, agent) {
    return new Promise(resolve => {
      const request = http.request(
        {
          host: '127.0.0.1',
          port: this.#port,
          path,
          method: path === '/' ? 'GET' : 'PUT',
          agent,
          headers: { 'x-request-id': id, 'content-length': 0 },
        },
        response => {
          let text = ''
          response.setEncoding('utf8').on('data', part => {
            text += part
          })
          response.once('end', () =>
            resolve(
              response.statusCode === 200 ? null : `${response.statusCode} ${text.slice(0, 160).trim()}`,
            ),
          )
          response.once('error', (/** @type {any} */ error) => resolve(`in the answer: ${error.code}`))
        },
      )
      request.setTimeout(PATIENCE_MS, () => request.destroy(new Error(`no answer within ${PATIENCE_MS} ms`)))
      request.once('error', (/** @type {any} */ error) =>
        resolve(`${error.code ?? error.message}${request.reusedSocket ? ', on a kept connection' : ''}`),
      )
      request.end()
    })
  }
}
