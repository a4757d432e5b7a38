/** So often is told that something was appended, at most. */
const EVERY_MS = 10

/** Says that the log of this process has grown, where somebody wants to know: at once, and what comes soon after as one. */
export class AppendNotice {
  readonly #appended: Set<() => void>
  readonly #tell: () => void
  readonly #note = () => this.#soon()
  #toldAt = Number.NEGATIVE_INFINITY
  #timer: NodeJS.Timeout | undefined

  /** `appended`: called when the log has grown. */
  constructor(appended: Set<() => void>, tell: () => void) {
    this.#appended = appended
    this.#tell = tell
  }

  /** Somebody wants to know, from what is there already on; or nobody does any more. */
  want(wanted: boolean): void {
    this.close()
    if (!wanted) return
    this.#appended.add(this.#note)
    this.#soon()
  }

  close(): void {
    this.#appended.delete(this.#note)
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #soon(): void {
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined
        this.#toldAt = performance.now()
        this.#tell()
      },
      Math.max(0, this.#toldAt + EVERY_MS - performance.now()),
    ).unref()
  }
}
