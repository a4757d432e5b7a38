import { readlinkSync } from 'node:fs'

/** Where a process writes, by what its descriptors lead to; undefined: that cannot be seen from here. */
export interface OutputOf {
  readonly stdout: string | undefined
  readonly stderr: string | undefined
}

export function outputOf(pid: number): OutputOf {
  return { stdout: targetOf(pid, 1), stderr: targetOf(pid, 2) }
}

/** Where that may end before the process does; null: it goes to a file, or nowhere. */
export function outputText({ stdout, stderr }: OutputOf): string | null {
  const said = [...new Set([stdout, stderr])].flatMap(target =>
    target === undefined ? [] : (describe(target) ?? []),
  )
  return said.length === 0 ? null : `its output goes to ${said.join(' and ')}`
}

function describe(target: string): string | null {
  const lost = 'what is written after its end is dropped'
  if (/^\/dev\/(?:pts\/|tty|console)/.test(target)) return `the terminal ${target} (${lost})`
  if (target.startsWith('pipe:')) return `a pipe (${lost})`
  return target.startsWith('socket:') ? `a socket (${lost})` : null
}

function targetOf(pid: number, fd: 1 | 2): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`)
  } catch {
    return undefined
  }
}
