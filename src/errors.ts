import type { CataloguedCode } from './errors/codes.js'
import type { Http1Code } from './errors/http1-refusals.js'

/** All error codes of this release; docs/errors.md has their causes and remedies. */
export type FdbErrorCode = CataloguedCode | Http1Code

/** Marks the errors of this library, so that {@link FdbError.is} also recognises those of another copy of the package. */
const mark: unique symbol = Symbol.for('fd-broker.error') as never

export interface FdbErrorOptions {
  cause?: unknown
  /** Whether an unchanged retry may succeed later. */
  retryable?: boolean | undefined
  /** Phase of the handoff. */
  phase?: string | undefined
  /** Further facts for logs and tests. */
  details?: Record<string, unknown> | undefined
}

/** An error of this library: its `code` is stable, and its message has the facts and then the remedy. */
export class FdbError extends Error {
  /** An error from another process may have a code of a newer release, which this type lacks. */
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
   * Returns the error itself if it is an FdbError; otherwise wraps it as the cause, with its message and the given code (default
   * ERR_FDB_INTERNAL).
   */
  static from(thrown: unknown, code: FdbErrorCode = 'ERR_FDB_INTERNAL'): FdbError {
    if (FdbError.is(thrown)) return thrown
    return new FdbError(code, thrown instanceof Error ? thrown.message : String(thrown), { cause: thrown })
  }
}

/** A TypeError for an argument of a wrong type, with all fields of an {@link FdbError}. `FdbError.is()` returns true for it. */
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
