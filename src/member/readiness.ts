import { afterHearing, type Limit } from '../channel/limit.js'
import { FdbError } from '../errors.js'

/** Those who wait until this process serves, and the time that they have. */
export class Readiness {
  readonly #late: () => void
  #waiting: { resolve(): void; reject(error: Error): void }[] = []
  #limit: Limit | undefined

  constructor(late: () => void) {
    this.#late = late
  }

  /** From now on; an earlier limit does not count any more. */
  limit(ms: number): void {
    this.#limit?.clear()
    this.#limit = afterHearing(ms, this.#late)
  }

  /** Resolves when this process serves, rejects when it is clear that it will not. */
  wait(): Promise<void> {
    const serving = new Promise<void>((resolve, reject) => this.#waiting.push({ resolve, reject }))
    serving.catch(() => {})
    return serving
  }

  serves(): void {
    this.#limit?.clear()
    for (const { resolve } of this.#waiting.splice(0)) resolve()
  }

  fail(why: Error): void {
    this.#limit?.clear()
    for (const { reject } of this.#waiting.splice(0)) reject(why)
  }
}

/** Told to whoever awaits, before this process is ready, a change of the state that waits until it serves. */
export function notReady(): FdbError {
  return new FdbError(
    'ERR_FDB_NOT_READY',
    'a change of the state was awaited before this process was ready: it is made once this process serves, so ready() would never ' +
      'be called, or its checks never pass. The change is kept: call ready() first, and await the change after it',
  )
}
