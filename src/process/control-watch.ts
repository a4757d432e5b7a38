import type { Logger } from '../logger.js'
import type { FirstControl } from './control-path.js'
import { type RestoredControl, restoreControl } from './restore-control.js'

/** How often it is looked whether the paths are there. */
const LOOK_MS = 5_000

export interface WatchedControl {
  /** What is to be there; null: it is not this process's matter now. */
  place(): Pick<FirstControl, 'path' | 'entry' | 'lock'> | null
  /** Something was made anew; owns its descriptors. */
  restored(made: RestoredControl): void
  readonly logger: Logger
}

/** Looks again and again whether the path of a control socket and its lock are there, and puts back what somebody has removed. */
export class ControlWatch {
  readonly #watched: WatchedControl
  #timer: NodeJS.Timeout | undefined

  constructor(watched: WatchedControl) {
    this.#watched = watched
  }

  /** Idempotent. */
  start(): void {
    this.#timer ??= setInterval(() => this.look(), LOOK_MS).unref()
  }

  /** Idempotent. */
  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** Now. Never throws. */
  look(): void {
    const { logger } = this.#watched
    const place = this.#watched.place()
    if (place === null) return
    const { path: control } = place
    try {
      const made = restoreControl(place)
      if (made === null) return
      logger.warn({ control }, 'the control path or its lock was removed, and is put back')
      this.#watched.restored(made)
    } catch (err) {
      logger.error({ err, control }, 'the control path was removed, and cannot be put back')
    }
  }
}
