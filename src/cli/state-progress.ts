const EVERY_MS = 100

/** One line on standard error that is redrawn while something long goes on; nothing where that is no terminal. */
export class ProgressLine implements Disposable {
  readonly #out: NodeJS.WriteStream
  #last = performance.now()
  #shown = false

  constructor(out: NodeJS.WriteStream = process.stderr) {
    this.#out = out
  }

  show(line: () => string): void {
    if (!this.#out.isTTY || performance.now() - this.#last < EVERY_MS) return
    this.#last = performance.now()
    this.#shown = true
    this.#out.write(`\r\x1b[K${line().slice(0, (this.#out.columns || 80) - 1)}`)
  }

  /** Read so far, of a total when it is known. */
  bytes(what: string, done: number, total?: number): void {
    const of = total === undefined ? '' : ` of ${mib(total)}`
    this.show(() => `${what}: ${mib(done)}${of} MiB`)
  }

  [Symbol.dispose](): void {
    if (this.#shown) this.#out.write('\r\x1b[K')
    this.#shown = false
  }
}

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1)
}
