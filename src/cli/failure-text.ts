import { FdbError } from '../errors.js'
import { plain } from './table.js'

/** Why a command has failed, as `CODE: message`. */
export function failureText(error: unknown): string {
  if (FdbError.is(error)) return codeAndMessage(error)
  if (error instanceof Error) return `ERR_FDB_INTERNAL: ${error.stack ?? error.message}`
  return `ERR_FDB_INTERNAL: ${plain(error)}`
}

export function codeAndMessage({
  code,
  message,
}: {
  readonly code: string
  readonly message: string
}): string {
  // Some name one problem a line.
  return `${plain(code)}: ${message.split('\n').map(plain).join('\n')}`
}
