import { dirname } from 'node:path'
import type { Logger } from '../base/logger.js'
import { watchPaths } from '../kernel/index.js'
import { forgetAsked } from './reservation.js'
import { type HeldControl, type RestoredControl, restoreControl } from './restore-control.js'

/** A look without a notice: a folder further up was renamed, the file system tells nothing, or there is no inotify. */
const LOOK_MS = 5_000
/** Behind a repair, or a failed one: two programs that fight for a path do not keep a processor busy. */
const REST_MS = 250

export interface WatchedControl {
  /** What must be there; null: another process looks after it now. */
  place(): HeldControl | null
  /** Owns the descriptors of what was made again. */
  restored(made: RestoredControl): void
  readonly logger: Logger
}

/** Watches the path of a control socket, its folder and its lock file, and puts back what is removed, at once where there is inotify. */
export class ControlWatch {
  readonly #watched: WatchedControl
  #timer: NodeJS.Timeout | undefined
  #soon: NodeJS.Timeout | undefined
  #notice: Disposable | null = null
  /** When the last repair was made, or has failed. */
  #acted = Number.NEGATIVE_INFINITY
  /** The last failure: each is told once, when a second look fails too. */
  #failure = ''
  #told = ''

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
    this.#rest()
  }

  /** Now. Never throws. */
  look(): void {
    const { logger } = this.#watched
    const place = this.#watched.place()
    this.#rest()
    if (place === null || this.#timer === undefined) return
    try {
      // Before it is looked: what is removed behind the look is noticed.
      this.#attend(place)
      if (place.reservation !== null) forgetAsked(place.reservation)
      const made = restoreControl(place)
      this.#failure = this.#told = ''
      if (made === null) return
      this.#acted = performance.now()
      if (made.lock !== null || made.listener !== null)
        logger.warn({ control: place.path }, 'the control path or its lock was removed, and is put back')
      this.#watched.restored(made)
      this.#lookSoon()
    } catch (err) {
      this.#failed(err as Error, place.path)
    }
  }

  /** A process that starts holds the lock for a moment: only a failure that stays is told. */
  #failed(err: Error, control: string): void {
    this.#acted = performance.now()
    const again = this.#failure === err.message
    this.#failure = err.message
    if (!again) {
      this.#lookSoon()
    } else if (this.#told !== err.message) {
      this.#told = err.message
      const { logger } = this.#watched
      logger.error({ err, control }, 'the control path was removed, and cannot be put back')
    }
  }

  #attend({ path }: HeldControl): void {
    this.#notice = watchPaths(dirname(path), [path, `${path}.lock`], () => {
      this.#notice = null
      this.#lookSoon()
    })
  }

  #lookSoon(): void {
    const wait = this.#acted + REST_MS - performance.now()
    clearTimeout(this.#soon)
    this.#soon = setTimeout(() => this.look(), Math.max(0, wait)).unref()
  }

  #rest(): void {
    clearTimeout(this.#soon)
    this.#soon = undefined
    this.#notice?.[Symbol.dispose]()
    this.#notice = null
  }
}
