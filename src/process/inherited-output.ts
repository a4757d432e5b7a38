/** Names the record in a process: the preload and the library are two bundles. */
const KEY = Symbol.for('fd-broker.inherited-output')

/** What becomes of the output of a successor, which it has inherited from the process that has started it. */
export interface InheritedOutput {
  /** Writes to stdout and stderr that failed, as their terminal is closed or their pipe has no reader. */
  dropped: number
  /** The last lines on stderr; null: the process has come to serve, and they are no reason of a failed start. */
  lines: string | null
}

type Holder = { [KEY]?: InheritedOutput }

/** Null: this process was not started as a successor. */
export function inheritedOutput(): InheritedOutput | null {
  return (globalThis as Holder)[KEY] ?? null
}

/** By the preload alone. */
export function beginOutput(): InheritedOutput {
  const output: InheritedOutput = { dropped: 0, lines: '' }
  ;(globalThis as Holder)[KEY] = output
  return output
}
