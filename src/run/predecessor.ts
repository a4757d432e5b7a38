import { existsSync, linkSync, rmSync, unlinkSync } from 'node:fs'
import type { Logger } from '../base/logger.js'
import { type Adopted, adoptListeners, type Wanted } from '../os/foreign-listeners.js'
import { OtherProcess } from '../os/other-process.js'
import { passedSockets } from '../os/service-manager/passed-sockets.js'
import { endProcesses } from '../versions/process-members.js'
import type { VersionSettings } from './settings.js'

/** Which process is taken over, and how it is told to end; undefined: as a version is; none: not at all. */
export interface Takeover {
  readonly pid: number
  readonly signal: NodeJS.Signals | 'none' | undefined
}

/** A running process without fd-broker, whose listeners we have too: it serves beside the versions here, unchanged, until it is told to end. */
export class Predecessor implements Disposable {
  readonly #process: OtherProcess
  readonly #endsAt: Takeover['signal']
  readonly #logger: Logger
  readonly #paths: KeptPath[] = []
  readonly #closed = new AbortController()
  #timer: NodeJS.Timeout | undefined
  #phase: 'serving' | 'stopping' | 'killed' | 'ended' = 'serving'

  /** Takes what is wanted for {@link passedSockets}. Throws as {@link adoptListeners} does; ERR_FDB_ADOPT if there is no such process. */
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

  /** A version serves: `healthyFor` later this process is told to end, and killed after `stopTimeout`. */
  retire({ healthyFor, stopSignal, stopTimeout }: VersionSettings): void {
    // No process accepts on taken listeners that are not wanted.
    passedSockets().discard()
    const signal = this.#endsAt ?? stopSignal
    if (this.#phase !== 'serving' || signal === 'none') return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => void this.#end(signal, stopTimeout), healthyFor)
  }

  /** No version serves in its place any more: it is not told to end, if it was not yet. */
  spare(): void {
    if (this.#phase === 'serving') clearTimeout(this.#timer)
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer)
    this.#closed.abort()
    for (const path of this.#paths.splice(0)) path[Symbol.dispose]()
    this.#process[Symbol.dispose]()
  }

  async #end(signal: NodeJS.Signals, graceMs: number): Promise<void> {
    const [facts, other, paths] = [{ predecessor: this.pid }, this.#process, this.#paths]
    this.#phase = 'stopping'
    this.#logger.info({ ...facts, signal }, 'the process that was taken over is told to end')
    const asProcesses = {
      // A server that ends removes the path of its socket: no client can connect until it is put back.
      get ended() {
        for (const path of paths) path.restore()
        return other.ended
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
      this.#logger.error(facts, 'the process that was taken over does not end: end it by hand')
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

/** A second name of a Unix socket's file: what removes the first, as most servers do when they close, does not end the service. */
export class KeptPath implements Disposable {
  readonly #path: string
  readonly #second: string

  /** Throws what the file system says: it may have no hard links, or not allow one to another user's socket. */
  constructor(path: string) {
    this.#path = path
    this.#second = `${path}.adopted-${process.pid}`
    // The folder of a killed process with this number, as in a container that was restarted.
    rmSync(this.#second, { force: true })
    linkSync(path, this.#second)
  }

  /** Puts it back where it is not. Never throws. */
  restore(): void {
    if (existsSync(this.#path)) return
    try {
      linkSync(this.#second, this.#path)
    } catch {
      // Another program has put something there meanwhile; or the folder is gone.
    }
  }

  [Symbol.dispose](): void {
    try {
      unlinkSync(this.#second)
    } catch {
      // It is gone already.
    }
  }
}
