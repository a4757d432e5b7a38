import { readlinkSync } from 'node:fs'
import { processes, procText } from '../kernel/index.js'

/**
 * Returns the pid here of the process that `by` calls `reported`; null if this process cannot see it. `by` is the pid here of a process that
 * may be in a PID namespace below this one, where pids are others.
 */
export function pidSeenHere(reported: number, by: number): number | null {
  const levels = pidsOf(by)
  // Without /proc, and before Linux 4.1, the namespace is unknown: usually it is the same.
  if (levels.length < 2) return reported
  if (levels.at(-1) === reported) return by
  const namespace = namespaceOf(by)
  const isIt = (pid: number) => {
    const pids = pidsOf(pid)
    return pids.length === levels.length && pids.at(-1) === reported && namespaceOf(pid) === namespace
  }
  return processes().find(isIt) ?? null
}

/** Returns the pids of a process in its PID namespaces, from this process's one down to its own; none if they are unknown. */
function pidsOf(pid: number): number[] {
  const [, pids = ''] = /^NSpid:(.*)$/m.exec(procText(`${pid}/status`)) ?? []
  return pids.trim().split(/\s+/).filter(Boolean).map(Number)
}

/** Returns null if this process may not read it. */
function namespaceOf(pid: number): string | null {
  try {
    return readlinkSync(`/proc/${pid}/ns/pid`)
  } catch {
    return null
  }
}
