import type { CataloguedCode } from './errors/codes.js'
import type { Http1Code } from './errors/http1-refusals.js'

/** All codes that this release raises; docs/errors.md says of each why, and what to do. */
export type FdbErrorCode = CataloguedCode | Http1Code

/**
 * Every failure of this library: a stable `code`, the numbers in the message, the remedy at its end.
 * Recognisable across duplicate copies of the package by `code` and by the symbol below.
 */
const mark: unique symbol = Symbol.for('fd-broker.error') as never

export interface FdbErrorOptions {
  cause?: unknown
  /** Trying again later, unchanged, may succeed. */
  retryable?: boolean
  /** The phase of the handoff in which it happened. */
  phase?: string
  /** Further facts, for logs and tests. */
  details?: Record<string, unknown>
}

export class FdbError extends Error {
  /** One that another process told may be of a newer release, and none of these. */
  readonly code: FdbErrorCode
  readonly retryable: boolean
  readonly phase: string | undefined
  readonly details: Record<string, unknown>

  constructor(code: FdbErrorCode, message: string, options: FdbErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'FdbError'
    this.code = code
    this.retryable = options.retryable ?? false
    this.phase = options.phase
    this.details = options.details ?? {}
    Object.defineProperty(this, mark, { value: true })
  }

  static is(error: unknown): error is FdbError {
    return typeof error === 'object' && error !== null && mark in error
  }

  /**
   * The same error when it is one of this library; of anything else that was thrown, one with the code given here (default
   * ERR_FDB_INTERNAL), the same message, and it as the cause.
   */
  static from(thrown: unknown, code: FdbErrorCode = 'ERR_FDB_INTERNAL'): FdbError {
    if (FdbError.is(thrown)) return thrown
    return new FdbError(code, thrown instanceof Error ? thrown.message : String(thrown), { cause: thrown })
  }
}

/** An argument has the wrong type: a TypeError with everything that an {@link FdbError} has (`FdbError.is` returns true). */
export class FdbTypeError extends TypeError {
  readonly code: FdbErrorCode
  readonly retryable = false
  readonly phase: string | undefined = undefined
  readonly details: Record<string, unknown>

  constructor(code: FdbErrorCode, message: string, options: Pick<FdbErrorOptions, 'cause' | 'details'> = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'FdbTypeError'
    this.code = code
    this.details = options.details ?? {}
    Object.defineProperty(this, mark, { value: true })
  }
}
