import { constants } from 'node:os'
import type { Logger } from '../base/logger.js'
import { type Adopted, adoptListeners, type Wanted } from '../os/foreign-listeners.js'
import { KeptPath } from '../os/kept-path.js'
import { OtherProcess } from '../os/other-process.js'
import { passedSockets } from '../os/service-manager/passed-sockets.js'
import type { VersionSettings } from './settings.js'

/** A server that ends removes the path of its socket: nobody can connect there until it is put back. */
const LOOK_MS = 10
/** After SIGKILL: what is there still waits in the kernel. */
const KILLED_MS = 5_000

/** Which process is taken over, and how it is told to end; undefined: as a version is; none: not at all. */
export interface Takeover {
  readonly pid: number
  readonly signal: NodeJS.Signals | 'none' | undefined
}

/**
 * A running process that knows nothing of us, and whose listeners we have too: it serves as ever, beside whoever accepts on them here,
 * until it is told to end. Until then nothing has changed for it.
 */
export class Predecessor implements Disposable {
  readonly #process: OtherProcess
  readonly #endsAt: Takeover['signal']
  readonly #logger: Logger
  readonly #paths: KeptPath[] = []
  #timer: NodeJS.Timeout | undefined
  #phase: 'serving' | 'stopping' | 'killed' | 'ended' = 'serving'

  /**
   * Takes what is wanted, and has it found by {@link passedSockets}. Throws as {@link adoptListeners} does, and ERR_FDB_ADOPT where
   * there is no such process.
   */
  static of({ pid, signal }: Takeover, wanted: readonly Wanted[], logger: Logger): Predecessor {
    const other = OtherProcess.of(pid)
    try {
      const adopted = adoptListeners(other, wanted)
      passedSockets().offer(adopted)
      return new Predecessor(other, adopted, signal, logger)
    } catch (error) {
      other[Symbol.dispose]()
      throw error
    }
  }

  private constructor(
    other: OtherProcess,
    adopted: readonly Adopted[],
    signal: Takeover['signal'],
    logger: Logger,
  ) {
    this.#process = other
    this.#endsAt = signal
    this.#logger = logger
    for (const { name, spec } of adopted) {
      logger.info(
        { listener: name, predecessor: other.pid },
        'a listener of a running process was taken over',
      )
      if (spec.kind === 'unix' && !spec.abstract) this.#keep(spec.path)
    }
  }

  get pid(): number {
    return this.#process.pid
  }

  get phase(): 'serving' | 'stopping' | 'killed' | 'ended' {
    return this.#phase
  }

  /** Nothing is done with it any more. */
  get over(): boolean {
    return this.#phase === 'ended' || this.#endsAt === 'none'
  }

  /**
   * A version serves in its place: when it has done so for `healthyFor`, this one is told to end, and killed when it has not after
   * `stopTimeout`.
   */
  retire({ healthyFor, stopSignal, stopTimeout }: VersionSettings): void {
    // Nobody accepts on what was taken and is not wanted.
    passedSockets().discard()
    const signal = this.#endsAt ?? stopSignal
    if (this.#phase !== 'serving' || signal === 'none') return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#phase = 'stopping'
      this.#logger.info({ predecessor: this.pid, signal }, 'the process that was taken over is told to end')
      this.#signal(signal)
      this.#watch(performance.now() + stopTimeout)
    }, healthyFor)
  }

  /** Nobody serves in its place any more: it is not told to end, if it was not yet. */
  spare(): void {
    if (this.#phase === 'serving') clearTimeout(this.#timer)
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer)
    for (const path of this.#paths.splice(0)) path[Symbol.dispose]()
    this.#process[Symbol.dispose]()
  }

  #watch(until: number): void {
    const { ended } = this.#process
    for (const path of this.#paths) path.restore()
    if (ended) {
      this.#phase = 'ended'
      this.#logger.info({ predecessor: this.pid }, 'the process that was taken over has ended')
      for (const path of this.#paths.splice(0)) path[Symbol.dispose]()
      return
    }
    let next = until
    if (performance.now() > until) {
      if (this.#phase === 'killed') {
        this.#logger.error(
          { predecessor: this.pid },
          'the process that was taken over does not end: end it by hand',
        )
        return
      }
      this.#phase = 'killed'
      this.#logger.warn(
        { predecessor: this.pid },
        'the process that was taken over did not end in time and is killed',
      )
      this.#signal('SIGKILL')
      next = performance.now() + KILLED_MS
    }
    this.#timer = setTimeout(() => this.#watch(next), LOOK_MS)
  }

  #signal(signal: NodeJS.Signals): void {
    try {
      this.#process.signal(constants.signals[signal])
    } catch {
      // It has ended meanwhile.
    }
  }

  #keep(path: string): void {
    try {
      this.#paths.push(new KeptPath(path))
    } catch (error) {
      this.#logger.warn(
        { err: error, path },
        'the path of this socket cannot be kept if the process that is taken over removes it',
      )
    }
  }
}
