import { readFileSync } from 'node:fs'

/** A process that was brought into a phase, and an order for it. */
export interface Stage {
  /** The process that gets the order. */
  readonly pid: number
  /** An order has its answer and its effect within this time, in milliseconds. Default: as long as a play may take. */
  readonly latestMs?: number | undefined
  /** The processes that a cell calls `it` if one of them serves: the same one, the program of a supervisor, or the workers of a main process. */
  readonly serving: readonly number[]
  readonly url: string
  /** The path of the control socket, which a service that ends by the order removes; null if the order kills, or is none of fd-broker's. */
  readonly removes: string | null
  give(): Promise<unknown>
  /** Undoes the order, so that the process goes on. */
  undo?(): unknown
  /** Releases the hook that holds the process in the phase. */
  release?(): void
  /** The phase that the process reports now. */
  phase(): Promise<string>
  /** The output of the processes, for a failure. */
  describe(): string
}

/** The state of a process in /proc: `T` if a signal has stopped it. */
export function stateOf(pid: number): string {
  return /^.*\) (.)/s.exec(readFileSync(`/proc/${pid}/stat`, 'latin1'))?.[1] ?? ''
}
