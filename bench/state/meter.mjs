// @ts-check
// A process measures its own memory, and whether it works.
import { readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { cpuMs } from '../turns.mjs'

const MB = 2 ** 20

/** @param {'VmRSS' | 'VmHWM'} name @returns MiB */
function memory(name) {
  const line = readFileSync('/proc/self/status', 'latin1').match(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm'))
  return Number(line?.[1]) / 1024
}

/** Starts the peak of the resident memory again; returns the memory now. */
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
