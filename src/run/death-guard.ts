import type { Logger } from '../base/logger.js'
import { EndGuard } from '../kernel/index.js'

/** Has the processes of versions killed if this supervisor is killed: also those whose parent is not the supervisor, as under a shell. */
export class DeathGuard {
  readonly #marks: string[] = []
  readonly #logger: Logger
  /** Undefined before the first mark, and after {@link release}. */
  #guard: EndGuard | null | undefined

  constructor(logger: Logger) {
    this.#logger = logger
  }

  /** `mark`: the variable of a version that does not survive the supervisor. */
  add(mark: string): void {
    this.#marks.push(mark)
    if (this.#guard === undefined) this.#start()
    this.#put(mark)
  }

  /** The supervisor ends as it should, or executes its next image, which starts a guard of its own. */
  release(): void {
    this.#guard?.[Symbol.dispose]()
    this.#guard = undefined
  }

  /** The next image was not executed. */
  renew(): void {
    if (this.#marks.length === 0) return
    this.#start()
    for (const mark of this.#marks) this.#put(mark)
  }

  #start(): void {
    // With PID 1 the kernel kills all processes of the container.
    if (process.platform !== 'linux' || process.pid === 1) return
    try {
      this.#guard = new EndGuard()
    } catch (error) {
      this.#guard = null
      this.#warn(error, 'no guardian could be started')
    }
  }

  /** Never throws: a version starts also without a guardian. */
  #put(mark: string): void {
    try {
      this.#guard?.add(mark)
    } catch (error) {
      this.#warn(error, 'the guardian could not be told of a version')
    }
  }

  #warn(err: unknown, why: string): void {
    this.#logger.warn(
      { err },
      `${why}: if this supervisor is killed, only the main process of the program is killed with it`,
    )
  }
}
