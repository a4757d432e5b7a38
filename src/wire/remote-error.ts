import { FdbError, type FdbErrorCode } from '../errors.js'

/** What another process says of a failure, as it came. */
export interface RemoteError {
  readonly code?: string | null | undefined
  readonly message?: string | null | undefined
  readonly retryable?: boolean | null | undefined
  readonly phase?: string | null | undefined
  /** What this process knows of it; the wire carries none. */
  readonly details?: FdbError['details']
}

const told = new WeakSet<FdbError>()

/** Another process has told it: what it says is of that one, its options for example. */
export function wasTold(error: FdbError): boolean {
  return told.has(error)
}

/** A failure that another process has told. One without a code of ours, or without words, gets those given here. */
export function remoteError(
  { code, message, retryable, phase, details }: RemoteError,
  otherwise: { code: FdbErrorCode; message: string },
): FdbError {
  // One of a newer release is kept as it is.
  const stable = code?.startsWith('ERR_FDB_') ? (code as FdbErrorCode) : otherwise.code
  const error = new FdbError(stable, message || otherwise.message, {
    retryable: retryable ?? false,
    ...(phase ? { phase } : {}),
    ...(details ? { details } : {}),
  })
  told.add(error)
  return error
}
