const EVERY_MS = 10

/** Notifies the daemon when this process's log has grown: at once, then at most every {@link EVERY_MS}. */
export class AppendNotice {
  readonly #appended: Set<() => void>
  readonly #notify: () => void
  readonly #onAppend = () => this.#schedule()
  #notifiedAt = Number.NEGATIVE_INFINITY
  #timer: NodeJS.Timeout | undefined

  /** `appended`: the set of functions that the log calls when it has grown. */
  constructor(appended: Set<() => void>, notify: () => void) {
    this.#appended = appended
    this.#notify = notify
  }

  /** Starts or stops the notices. The first one reports the present state. */
  want(wanted: boolean): void {
    this.close()
    if (!wanted) return
    this.#appended.add(this.#onAppend)
    this.#schedule()
  }

  close(): void {
    this.#appended.delete(this.#onAppend)
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #schedule(): void {
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined
        this.#notifiedAt = performance.now()
        this.#notify()
      },
      Math.max(0, this.#notifiedAt + EVERY_MS - performance.now()),
    ).unref()
  }
}
