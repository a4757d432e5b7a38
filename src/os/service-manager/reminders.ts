import type { ServiceManager } from './service-manager.js'

/** What takes longer says so, for so long again, so often. */
const TAKES_MS = 30_000
const SAY_AGAIN_MS = 10_000

/** What a service manager wants to hear again and again. */
export class Reminders {
  readonly #manager: ServiceManager | null
  readonly #healthy: () => boolean
  #watchdog: NodeJS.Timeout | undefined
  #patience: NodeJS.Timeout | undefined

  /** `manager` null: nobody wants to hear. */
  constructor(manager: ServiceManager | null, healthy: () => boolean) {
    this.#manager = manager
    this.#healthy = healthy
  }

  /** This process is the one to be watched. Idempotent. */
  live(): void {
    const manager = this.#manager
    if (manager === null || manager.watchdogMs === null || this.#watchdog !== undefined) return
    const lives = () => {
      if (this.#healthy()) manager.lives()
    }
    this.#watchdog = setInterval(lives, Math.max(1, manager.watchdogMs / 2)).unref()
    lives()
  }

  /** Another is. */
  rest(): void {
    clearInterval(this.#watchdog)
    this.#watchdog = undefined
  }

  /** What is under way has limits of its own, and may take longer than the manager's. Idempotent. */
  takeTime(): void {
    const manager = this.#manager
    if (manager === null || this.#patience !== undefined) return
    const say = () => manager.takesTime(TAKES_MS)
    say()
    this.#patience = setInterval(say, SAY_AGAIN_MS).unref()
  }

  /** It is over. */
  takeNoTime(): void {
    clearInterval(this.#patience)
    this.#patience = undefined
  }

  close(): void {
    this.rest()
    this.takeNoTime()
  }
}
