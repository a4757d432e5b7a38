import { FdbError } from '../errors.js'
import type { Epoch } from '../handoff/messages.js'
import type { UnfitReport } from '../operator/status-report.js'

/** What a process that was to serve, or stands by for it, could not do: told to its holder, to operators and to who writes. */
export class Unfitness {
  #cause: FdbError | null = null

  get cause(): FdbError | null {
    return this.#cause
  }

  get report(): UnfitReport | null {
    return this.#cause === null ? null : { code: this.#cause.code, message: this.#cause.message }
  }

  /** The first cause counts: what failed because of it says less. */
  note(error: unknown): FdbError {
    this.#cause ??= FdbError.from(error)
    return this.#cause
  }

  /** This process serves, or tries anew. */
  clear(): void {
    this.#cause = null
  }

  /** What changes are told that are asked for here. */
  refusal(): FdbError {
    const { cause } = this
    return new FdbError(
      'ERR_FDB_UNFIT',
      `this process answers from what it has read and cannot write: ${cause?.message ?? 'it could not take over'}; ` +
        'upgrade to a version that can (status shows "unfit")',
      { cause, details: { reason: cause?.code ?? null } },
    )
  }
}

/** Another has the right to write. */
export function fenced(epoch: Epoch): FdbError {
  return new FdbError(
    'ERR_FDB_FENCED',
    `another process has the right to write now (this was epoch ${epoch}): repeat the change there`,
    { retryable: true },
  )
}

/** Another process serves, and has what the service has. */
export function fencedFrom(name: string): FdbError {
  return new FdbError(
    'ERR_FDB_FENCED',
    `another process has come to serve before "${name}" could be taken in: give it to the next version, or open it there`,
    { retryable: true },
  )
}
