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
  readonly code: string
  readonly retryable: boolean
  readonly phase: string | undefined
  readonly details: Record<string, unknown>

  constructor(code: `ERR_FDB_${string}`, message: string, options: FdbErrorOptions = {}) {
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
}

/**
 * What a caller passed is of the wrong kind: a TypeError, with all that an {@link FdbError} has (`FdbError.is` says yes).
 */
export class FdbTypeError extends TypeError {
  readonly code: string
  readonly retryable = false
  readonly phase: string | undefined = undefined
  readonly details: Record<string, unknown>

  constructor(
    code: `ERR_FDB_${string}`,
    message: string,
    options: Pick<FdbErrorOptions, 'cause' | 'details'> = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'FdbTypeError'
    this.code = code
    this.details = options.details ?? {}
    Object.defineProperty(this, mark, { value: true })
  }
}
