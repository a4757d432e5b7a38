import { readFileSync } from 'node:fs'

/** The process and its ancestors that can be seen from here, nearest first. Where /proc does not tell: itself. */
export function* lineOf(pid: number): Generator<number> {
  for (let at = pid; at > 0; at = parentOf(at)) yield at
}

/** 0: it has none here, has ended, or cannot be looked at. */
function parentOf(pid: number): number {
  try {
    // The name, in brackets, may have anything in it.
    const [, parent = '0'] = readFileSync(`/proc/${pid}/stat`, 'latin1')
      .replace(/^.*\) /s, '')
      .split(' ')
    return Number(parent)
  } catch {
    return 0
  }
}
