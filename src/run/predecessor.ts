import { existsSync, linkSync, rmSync, unlinkSync } from 'node:fs'
import { afterReading, type Limit } from '../base/after-reading.js'
import type { Logger } from '../base/logger.js'
import { type AdoptedListener, adoptListeners, type NamedListener } from '../os/foreign-listeners.js'
import { OtherProcess } from '../os/other-process.js'
import { passedSockets } from '../os/service-manager/passed-sockets.js'
import { endProcesses } from '../versions/leftover-processes.js'
import type { VersionSettings } from './settings.js'

/** The process whose listeners are taken over. */
export interface Takeover {
  readonly pid: number
  /** The signal that ends the process. Default: the versions' stop signal. `none`: the process is not ended. */
  readonly signal: NodeJS.Signals | 'none' | undefined
}

/** A running process without fd-broker whose listeners were duplicated. Serves beside the first version until `run` tells it to end. */
export class Predecessor implements Disposable {
  readonly #process: OtherProcess
  readonly #endSignal: Takeover['signal']
  readonly #logger: Logger
  readonly #paths: PathBackup[] = []
  readonly #closed = new AbortController()
  #retirement: Limit | undefined
  #phase: 'serving' | 'stopping' | 'killed' | 'ended' = 'serving'

  /** Offers the process's listeners to {@link passedSockets}. Throws as {@link adoptListeners} does; ERR_FDB_ADOPT if it does not exist. */
  static of({ pid, signal }: Takeover, wanted: readonly NamedListener[], logger: Logger): Predecessor {
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
    adopted: readonly AdoptedListener[],
    signal: Takeover['signal'],
    logger: Logger,
  ) {
    this.#process = other
    this.#endSignal = signal
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

  /** Whether the process has ended, or is not to be ended. */
  get isDone(): boolean {
    return this.#phase === 'ended' || this.#endSignal === 'none'
  }

  /** Called when a version starts to serve. After `healthyFor` tells the process to end; `stopTimeout` later kills it. */
  retire({ healthyFor, stopSignal, stopTimeout }: VersionSettings): void {
    // The first version has taken its listeners: the others are not needed.
    passedSockets().discard()
    const signal = this.#endSignal ?? stopSignal
    if (this.#phase !== 'serving' || signal === 'none') return
    this.#retirement?.clear()
    // Behind the news that the version has ended, which may have come while this process was stopped.
    this.#retirement = afterReading(healthyFor, () => void this.#end(signal, stopTimeout))
  }

  /** Called when no version serves any more: cancels the pending end. */
  cancelRetirement(): void {
    if (this.#phase === 'serving') this.#retirement?.clear()
  }

  [Symbol.dispose](): void {
    this.#retirement?.clear()
    this.#closed.abort()
    for (const path of this.#paths.splice(0)) path[Symbol.dispose]()
    this.#process[Symbol.dispose]()
  }

  async #end(signal: NodeJS.Signals, graceMs: number): Promise<void> {
    const [facts, other, paths] = [{ predecessor: this.pid }, this.#process, this.#paths]
    this.#phase = 'stopping'
    this.#logger.info({ ...facts, signal }, 'the process that was taken over is told to end')
    const asProcesses = {
      // A server that closes removes the path of its Unix socket: clients cannot connect until the path is restored.
      get hasEnded() {
        for (const path of paths) path.restore()
        return other.hasEnded
      },
      signal: (number: number) => this.#signal(number),
    }
    const killing = () => {
      this.#phase = 'killed'
      this.#logger.warn(facts, 'the process that was taken over did not end in time and is killed')
    }
    const ended = await endProcesses(asProcesses, { signal, graceMs, killing, givenUp: this.#closed.signal })
    if (this.#closed.signal.aborted) return
    if (!ended) {
      this.#logger.error(facts, 'the process that was taken over does not end: end it manually')
      return
    }
    this.#phase = 'ended'
    this.#logger.info(facts, 'the process that was taken over has ended')
    for (const path of paths.splice(0)) path[Symbol.dispose]()
  }

  #signal(signal: number): void {
    try {
      this.#process.signal(signal)
    } catch {
      // The process has just ended.
    }
  }

  #keep(path: string): void {
    try {
      this.#paths.push(new PathBackup(path))
    } catch (error) {
      this.#logger.warn(
        { err: error, path },
        'if the process that is taken over removes the path of this socket, clients cannot connect any more',
      )
    }
  }
}

/** A hard link to a Unix socket, which restores the path when a closing server removes it. */
export class PathBackup implements Disposable {
  readonly #path: string
  readonly #second: string

  /** Throws file system errors: the file system may lack hard links, or refuse one to another user's socket. */
  constructor(path: string) {
    this.#path = path
    this.#second = `${path}.adopted-${process.pid}`
    // A killed supervisor with the same pid, as in a restarted container, may have left such a link.
    rmSync(this.#second, { force: true })
    linkSync(path, this.#second)
  }

  /** Restores the path if it is missing. Never throws. */
  restore(): void {
    if (existsSync(this.#path)) return
    try {
      linkSync(this.#second, this.#path)
    } catch {
      // Another program has just created the path, or the folder was removed.
    }
  }

  [Symbol.dispose](): void {
    try {
      unlinkSync(this.#second)
    } catch {
      // The link is already removed.
    }
  }
}
