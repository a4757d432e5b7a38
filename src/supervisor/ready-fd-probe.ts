import { type OwnedFd, type Poll, READABLE, receiveMessage, socketPair, watch } from '../kernel/index.js'
import { NOTHING, type Probe, type ProbeEvents } from './probe.js'

const NEWLINE = 10

/** The version writes a line to a descriptor. */
export class ReadyFdProbe implements Probe {
  readonly listeners = NOTHING.listeners
  readonly fds: readonly OwnedFd[]
  readonly env: NodeJS.ProcessEnv
  readonly #own: OwnedFd
  #poll: Poll | null = null

  /** `number`: which descriptor it is in the child. */
  constructor(number: number) {
    const [own, theirs] = socketPair('readiness')
    this.#own = own
    this.fds = [theirs]
    this.env = { FD_BROKER_READY_FD: `${number}` }
  }

  begin(_pid: number, events: ProbeEvents): void {
    for (const fd of this.fds) fd.close()
    const bytes = Buffer.alloc(64)
    this.#poll = watch(this.#own, () => {
      const { bytes: got } = receiveMessage(this.#own, bytes, 0, bytes.length)
      if (got < 0) return
      if (got === 0) this.settle()
      else if (bytes.subarray(0, got).includes(NEWLINE)) {
        this.settle()
        events.ready()
      }
    })
    this.#poll.start(READABLE)
  }

  settle(): void {
    this.#poll?.close()
    this.#poll = null
    this.#own.close()
    for (const fd of this.fds) fd.close()
  }

  [Symbol.dispose](): void {
    this.settle()
  }
}
