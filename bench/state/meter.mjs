// @ts-check
// What a process can say of its memory, and of whether it works.
import { readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { cpuMs } from '../turns.mjs'

const MB = 2 ** 20

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
