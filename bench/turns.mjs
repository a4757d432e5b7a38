// @ts-check
// How long a process's own work holds its event loop.
import { openSync, readSync } from 'node:fs'
import { PerformanceObserver, performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'

/** Turns below this are not looked at again. */
const SHORT_MS = 1
/** A process with less work than this, in long turns, for so long has nothing to do. */
const CALM = { ms: 400, workMs: 20 }

/**
 * @typedef {{ at: number, ran: number, waited: number }} Look the clock; what the main thread has had of the processors, which the kernel
 * counts every few milliseconds, and how long it has waited for one, which is exact (ms each)
 * @typedef {{ from: number, to: number }} Collection
 */

const schedule = openSync(`/proc/self/task/${process.pid}/schedstat`, 'r')
const bytes = Buffer.alloc(128)

/** @returns {Look} */
export function look() {
  const text = bytes.toString('latin1', 0, readSync(schedule, bytes, 0, bytes.length, 0))
  const [ran = 0, waited = 0] = text.split(' ').map(Number)
  return { at: performance.now(), ran: ran / 1e6, waited: waited / 1e6 }
}

/** CPU time of all threads, milliseconds. */
export function cpuMs() {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

/** V8 tells of a collection a moment later: see {@link Collections.settled}. */
export class Collections {
  /** @type {Collection[]} */
  #all = []
  #observer = new PerformanceObserver(list => {
    for (const { startTime, duration } of list.getEntries())
      this.#all.push({ from: startTime, to: startTime + duration })
  })

  constructor() {
    this.#observer.observe({ entryTypes: ['gc'] })
  }

  /** Milliseconds of collections between two times. @param {number} from @param {number} to */
  within(from, to) {
    let sum = 0
    for (const each of this.#all) sum += Math.max(0, Math.min(to, each.to) - Math.max(from, each.from))
    return sum
  }

  /** Forgets collections that ended earlier. @param {number} at */
  forget(at) {
    this.#all = this.#all.filter(({ to }) => to > at)
  }

  /** Resolves when all collections until now are known. */
  async settled() {
    await sleep(20)
  }

  stop() {
    this.#observer.disconnect()
  }
}

/**
 * Times each turn of the event loop, by a ring of immediates: the loop never sleeps meanwhile. Returns the longest: `turn` with
 * everything; `work` by the clock, without the waits for a processor and without V8's collections (of these two the
 * longer: the one may have been in the other), or the CPU time of the process where that is less (the host ran another guest).
 * `blocked`: the time that the main thread slept in a turn, for example in a system call that waits. The loop does not sleep
 * between turns, and the kernel counts CPU time to within 4 ms, so a smaller value says nothing.
 */
export function watchTurns() {
  const collections = new Collections()
  /** @type {{ from: number, to: number, ran: number, waited: number, cpu: number }[]} */
  const turns = []
  let running = true
  let last = look()
  let cpu = cpuMs()
  const tick = () => {
    const now = look()
    const cpuNow = cpuMs()
    if (now.at - last.at >= SHORT_MS)
      turns.push({
        from: last.at,
        to: now.at,
        ran: now.ran - last.ran,
        waited: now.waited - last.waited,
        cpu: cpuNow - cpu,
      })
    last = now
    cpu = cpuNow
    if (running) setImmediate(tick)
  }
  setImmediate(tick)
  /** Resolves when there is nothing to do any more. */
  const calm = async () => {
    const worked = (/** @type {number} */ since) =>
      turns.reduceRight((sum, { from, to, waited }) => (to < since ? sum : sum + to - from - waited), 0)
    do await sleep(CALM.ms)
    while (worked(performance.now() - CALM.ms) > CALM.workMs)
  }
  const end = async () => {
    running = false
    await collections.settled()
    collections.stop()
    const longest = { turn: 0, work: 0, blocked: 0 }
    for (const { from, to, ran, waited, cpu } of turns) {
      const clock = to - from - Math.max(waited, collections.within(from, to))
      longest.turn = Math.max(longest.turn, to - from)
      longest.work = Math.max(longest.work, Math.min(clock, cpu))
      longest.blocked = Math.max(longest.blocked, clock - ran)
    }
    return longest
  }
  return { calm, end }
}
