import type { FdbError } from '../errors.js'
import type { Logger } from '../logger.js'
import type { Failure } from '../operator/status-report.js'

/** Why versions were not brought to serve. */
export class Failures {
  readonly #logger: Logger
  readonly #reasons = new Map<number, FdbError>()
  #last: Failure | null

  constructor(logger: Logger, last: Failure | null) {
    this.#logger = logger
    this.#last = last
  }

  get last(): Failure | null {
    return this.#last
  }

  /** Before the machine is told, which answers with it. */
  note(version: number, reason: FdbError): void {
    this.#reasons.set(version, reason)
    const { code, message, phase = 'starting' } = reason
    this.#last = { code, message, phase, at: Date.now() }
    this.#logger.error({ version, err: reason }, 'a version was not brought to serve')
  }

  of(version: number | null): FdbError | undefined {
    return version === null ? undefined : this.#reasons.get(version)
  }

  forget(version: number): void {
    this.#reasons.delete(version)
  }
}
