// @ts-check
// What a process can say of itself: its turns of the event loop, CPU time, memory.
import { readFileSync, writeFileSync } from 'node:fs'
import { PerformanceObserver, performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'

/** Turns below this are not looked at again. */
const SHORT_MS = 1
const MB = 2 ** 20

/** CPU time of all threads, milliseconds. */
export function cpuMs() {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

/** @param {'VmRSS' | 'VmHWM'} name @returns MiB */
function memory(name) {
  const line = readFileSync('/proc/self/status', 'latin1').match(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm'))
  return Number(line?.[1]) / 1024
}

/** The peak of the resident memory counts anew from here; says where it stands. */
export function startMemory() {
  globalThis.gc?.()
  writeFileSync('/proc/self/clear_refs', '5')
  const before = memory('VmRSS')
  return () => ({ before, peak: memory('VmHWM'), heap: process.memoryUsage().heapUsed / MB })
}

/** Resolves when this process has nothing to do any more (a compaction after a handoff). */
export async function quiet() {
  for (let calm = 0; calm < 2; ) {
    const before = cpuMs()
    await sleep(200)
    calm = cpuMs() - before < 5 ? calm + 1 : 0
  }
}

/**
 * Times each turn of the event loop, by a ring of immediates: the loop never sleeps meanwhile. `work` of a turn is its time
 * without garbage collection, or its CPU time where that is less (the scheduler ran somebody else in it).
 */
export function watchTurns() {
  /** @type {{ start: number, end: number, cpu: number }[]} */
  const turns = []
  /** @type {{ start: number, end: number }[]} */
  const pauses = []
  const observer = new PerformanceObserver(list => {
    for (const { startTime, duration } of list.getEntries()) {
      pauses.push({ start: startTime, end: startTime + duration })
    }
  })
  observer.observe({ entryTypes: ['gc'] })
  let running = true
  let start = performance.now()
  let cpu = cpuMs()
  const tick = () => {
    const end = performance.now()
    const cpuNow = cpuMs()
    if (end - start >= SHORT_MS) turns.push({ start, end, cpu: cpuNow - cpu })
    start = end
    cpu = cpuNow
    if (running) setImmediate(tick)
  }
  setImmediate(tick)
  return async () => {
    running = false
    // Entries of the observer come later.
    await sleep(20)
    observer.disconnect()
    let longest = 0
    let work = 0
    for (const turn of turns) {
      const collecting = pauses.reduce(
        (sum, { start, end }) => sum + Math.max(0, Math.min(end, turn.end) - Math.max(start, turn.start)),
        0,
      )
      const wall = turn.end - turn.start
      longest = Math.max(longest, wall)
      work = Math.max(work, Math.min(wall - collecting, turn.cpu))
    }
    return { longest, work }
  }
}
