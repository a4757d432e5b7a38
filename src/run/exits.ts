/** The end of a version that served and was not told to end. */
export interface VersionExit {
  readonly generation: number
  readonly pid: number
  /** Its exit code, or 128 and the number of the signal that ended it. */
  readonly code: number
  /** Milliseconds since 1970. */
  readonly at: number
  /** How long its process lived. */
  readonly seconds: number
}

/** So many are shown. */
const MOST = 5
/** So many ends in a row, none of which had proved itself, are a loop. */
const LOOP = 2

/** `with code 1`, `by signal 15`; a code above 128 is 128 and the number of a signal. */
export function exitCodeText(code: number): string {
  return code > 128 ? `by signal ${code - 128}` : `with code ${code}`
}

/** Versions that ended by themselves while they served. */
export class Exits {
  #count: number
  #last: readonly VersionExit[]

  constructor(before: ExitReport | null = null) {
    this.#count = before?.count ?? 0
    this.#last = before?.last ?? []
  }

  note(exit: Omit<VersionExit, 'at' | 'seconds'>, startedAt: number): void {
    const at = Date.now()
    this.#count++
    this.#last = [...this.#last, { ...exit, at, seconds: Math.max(0, (at - startedAt) / 1000) }].slice(-MOST)
  }

  get report(): ExitReport {
    return { count: this.#count, last: this.#last }
  }
}

export interface ExitReport {
  readonly count: number
  /** Newest last. */
  readonly last: readonly VersionExit[]
}

/** Whether versions end, or fail, one after the other. */
export function loops(failures: number): boolean {
  return failures >= LOOP
}
