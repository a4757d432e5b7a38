// @ts-check
// Measures how the machine disturbs a round: how late the timers of the load generator are, and how long the main thread of each
// application waits for a processor. A request that fails in a round that the machine disturbed says nothing of the product.
import { readFileSync } from 'node:fs'

const LOOK_MS = 100
/** A load generator that is late by so much cannot tell how long an answer took. */
const LATE_MS = 1_000
/** An application that waits for a processor for most of this time does not answer in time. */
const WINDOW_MS = 5_000
const WAITED_MS = 4_000

/** @typedef {{ at: number, ranMs: number, waitedMs: number, state: string }} Look */
/** `waitedMs`: the most that an application waited of any 5 s. @typedef {{ lateMs: number, waitedMs: number, looks: readonly string[] }} Disturbance */

/** @param {Disturbance} disturbance */
export function disturbed({ lateMs, waitedMs }) {
  return lateMs >= LATE_MS || waitedMs >= WAITED_MS
}

export class Machine {
  #applications
  #timer
  #lookedAt = performance.now()
  #lateMs = 0
  #waitedMs = 0
  /** @type {string[]} */
  #looks = []
  /** The looks of the last {@link WINDOW_MS} at each application, by pid. @type {Map<number, Look[]>} */
  #windows = new Map()

  /** @param {() => Iterable<{ pid: number, ended: boolean }>} applications */
  constructor(applications) {
    this.#applications = applications
    this.#timer = setInterval(() => this.#look(), LOOK_MS)
  }

  /** Returns the disturbance since the last call. @returns {Disturbance} */
  take() {
    const taken = { lateMs: this.#lateMs, waitedMs: this.#waitedMs, looks: this.#looks }
    this.#lateMs = this.#waitedMs = 0
    this.#looks = []
    return taken
  }

  end() {
    clearInterval(this.#timer)
  }

  #look() {
    const at = performance.now()
    const lateMs = at - this.#lookedAt - LOOK_MS
    this.#lookedAt = at
    this.#lateMs = Math.max(this.#lateMs, lateMs)
    const seen = []
    for (const { pid, ended } of this.#applications()) {
      const look = ended ? null : lookAt(pid, at)
      if (look === null) {
        this.#windows.delete(pid)
        continue
      }
      const window = this.#windows.get(pid) ?? []
      const last = window.at(-1) ?? look
      window.push(look)
      while (window[1] !== undefined && at - window[1].at >= WINDOW_MS) window.shift()
      this.#windows.set(pid, window)
      this.#waitedMs = Math.max(this.#waitedMs, look.waitedMs - (window[0]?.waitedMs ?? look.waitedMs))
      const [ran, waited] = [look.ranMs - last.ranMs, look.waitedMs - last.waitedMs]
      seen.push(`${pid} ${look.state} ran ${ran.toFixed()} waited ${waited.toFixed()}`)
    }
    this.#looks.push(`${new Date().toISOString()} late ${lateMs.toFixed()}; ${seen.join('; ')}`)
  }
}

/** Returns the process's state, and milliseconds that its main thread ran, and was ready to run and did not; null after its end. @param {number} pid @param {number} at @returns {Look | null} */
function lookAt(pid, at) {
  try {
    const [ran, waited] = readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const state = stat.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3)
    return { at, ranMs: Number(ran) / 1e6, waitedMs: Number(waited) / 1e6, state }
  } catch {
    return null
  }
}
