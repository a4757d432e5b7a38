import { NOTHING, type Probe, type ProbeEvents } from './probe.js'

/** Between two questions to a version that is not ready yet. */
const ASK_MS = 100
/** To one that was, and is on trial. */
const AGAIN_MS = 250
/** An answer that takes longer is none. */
const ANSWER_MS = 5_000

/** Why it is not ready; null: it is. Rejects for the same. */
export type Question = (signal: AbortSignal, pid: number) => Promise<string | null>

/** Asks until the answer is yes; then goes on asking, and one no is a failure. */
export class Repeated implements Probe {
  readonly listeners = NOTHING.listeners
  readonly fds = NOTHING.fds
  readonly env = NOTHING.env
  readonly #ask: Question
  readonly #over = new AbortController()

  constructor(ask: Question) {
    this.#ask = ask
  }

  begin(pid: number, events: ProbeEvents): void {
    void this.#run(pid, events)
  }

  settle(): void {
    this.#over.abort()
  }

  [Symbol.dispose](): void {
    this.settle()
  }

  async #run(pid: number, events: ProbeEvents): Promise<void> {
    const { signal } = this.#over
    let ready = false
    while (!signal.aborted) {
      const why = await this.#answer(pid)
      if (signal.aborted) return
      if (why === null && !ready) {
        ready = true
        events.ready()
      } else if (why !== null && ready) {
        events.failed(why)
        return
      }
      await rest(ready ? AGAIN_MS : ASK_MS, signal)
    }
  }

  async #answer(pid: number): Promise<string | null> {
    const limit = AbortSignal.any([this.#over.signal, AbortSignal.timeout(ANSWER_MS)])
    try {
      return await this.#ask(limit, pid)
    } catch (error) {
      return error instanceof Error ? error.message : String(error)
    }
  }
}

function rest(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    const end = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', end)
      resolve()
    }
    const timer = setTimeout(end, ms)
    signal.addEventListener('abort', end, { once: true })
  })
}
