import { readFileSync } from 'node:fs'
import { processes, statOf } from './main-process.js'

/** Resident memory of the processes in the group of this leader, in bytes; null: it cannot be read. What they share counts for each. */
export function memoryOfGroup(leader: number): number | null {
  let sum: number | null = null
  for (const pid of processes()) {
    if (pid !== leader && statOf(pid)?.group !== leader) continue
    const own = memoryOf(pid)
    if (own !== null) sum = (sum ?? 0) + own
  }
  return sum
}

function memoryOf(pid: number): number | null {
  try {
    const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]
    return kilobytes === undefined ? null : Number(kilobytes) * 1024
  } catch {
    return null
  }
}
