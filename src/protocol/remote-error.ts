import { FdbError } from '../errors.js'

/** What another process says of a failure, as it came. */
export interface RemoteError {
  readonly code?: string | null | undefined
  readonly message?: string | null | undefined
  readonly retryable?: boolean | null | undefined
  readonly phase?: string | null | undefined
}

/** A failure that another process has told. One without a code of ours, or without words, gets those given here. */
export function remoteError(
  { code, message, retryable, phase }: RemoteError,
  otherwise: { code: `ERR_FDB_${string}`; message: string },
): FdbError {
  const stable = code?.startsWith('ERR_FDB_') ? (code as `ERR_FDB_${string}`) : otherwise.code
  return new FdbError(stable, message || otherwise.message, {
    retryable: retryable ?? false,
    ...(phase ? { phase } : {}),
  })
}
