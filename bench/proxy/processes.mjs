// @ts-check
// Looks at processes from outside: CPU time, memory, and whether they answer.
import { readdirSync, readFileSync } from 'node:fs'

/** The unit of /proc/PID/stat: 100 ticks a second on every Linux that Node runs on. */
const MICROSECONDS_PER_TICK = 10_000

/** Seconds for which a previous version may live that has connections. */
export const DRAIN_S = 10

/** @typedef {{ port: number, pids: () => number[], end: () => void }} Running a proxy, and the processes that it consists of */

/** @param {number} ms */
export const rest = ms => new Promise(resolve => setTimeout(resolve, ms))

/** CPU time so far (user and system), in microseconds. @param {number[]} pids */
export const cpu = pids =>
  pids.reduce((sum, pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
    return sum + (Number(fields[11]) + Number(fields[12])) * MICROSECONDS_PER_TICK
  }, 0)

/** In KiB. @param {number[]} pids @param {'VmRSS' | 'VmHWM'} what */
export const memoryOf = (pids, what) =>
  pids.reduce((sum, pid) => {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    return sum + Number(new RegExp(`${what}:\\s+(\\d+)`).exec(status)?.[1] ?? Number.NaN)
  }, 0)

/** A process and its children. @param {number} pid @returns {number[]} */
export function family(pid) {
  const children = readdirSync('/proc')
    .filter(entry => /^\d+$/.test(entry))
    .map(Number)
    .filter(other => {
      try {
        return Number(readFileSync(`/proc/${other}/stat`, 'utf8').split(') ')[1]?.split(' ')[1]) === pid
      } catch {
        return false
      }
    })
  return [pid, ...children]
}

/** @param {number} port */
export async function answers(port) {
  for (const until = performance.now() + 15_000; performance.now() < until; await rest(20)) {
    try {
      const response = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })
      await response.text()
      if (response.ok) return
    } catch {
      // Not yet.
    }
  }
  throw new Error(`nobody answers on port ${port}`)
}
