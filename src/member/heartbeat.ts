import type { Link } from '../protocol/link.js'

export interface HeartbeatOptions {
  readonly everyMs: number
  /** The channel to the holder, as it is now. */
  link(): Link | undefined
  /** The application's own word; one that throws says no. */
  healthy(): boolean
  report(): object
  /** Silence of the holder that counts as its end: a daemon that is stopped keeps its channels. */
  readonly silenceMs: number
  silent(): void
}

/** Tells the holder regularly that this process lives and is well, and notices when the holder says nothing. */
export class Heartbeat {
  readonly #options: HeartbeatOptions
  #timer: NodeJS.Timeout | undefined

  constructor(options: HeartbeatOptions) {
    this.#options = options
  }

  /** At once, then regularly. */
  start(): void {
    this.stop()
    this.#beat()
    this.#timer = setInterval(() => this.#beat(), this.#options.everyMs)
    this.#timer.unref()
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  #beat(): void {
    const { silenceMs } = this.#options
    const link = this.#options.link()
    if (link === undefined) return
    link.tell({ heartbeat: { healthy: this.#healthy(), report: JSON.stringify(this.#options.report()) } })
    if (link.open && link.idleMs > silenceMs) this.#options.silent()
  }

  #healthy(): boolean {
    try {
      return this.#options.healthy()
    } catch {
      return false
    }
  }
}
