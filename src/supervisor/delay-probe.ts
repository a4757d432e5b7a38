import { NOTHING, type Probe, type ProbeEvents } from './probe.js'

/** A version is ready when it has lived for so long. */
export class DelayProbe implements Probe {
  readonly listeners = NOTHING.listeners
  readonly fds = NOTHING.fds
  readonly env = NOTHING.env
  readonly #ms: number
  #timer: NodeJS.Timeout | undefined

  constructor(ms: number) {
    this.#ms = ms
  }

  begin(_pid: number, events: ProbeEvents): void {
    this.#timer = setTimeout(() => events.ready(), this.#ms)
  }

  settle(): void {
    clearTimeout(this.#timer)
  }

  [Symbol.dispose](): void {
    this.settle()
  }
}
