import type { FdbError, FdbErrorCode } from '../errors.js'
import { isRemoteError } from '../wire/link.js'
import type { ExitCode } from './output.js'

const SPECIAL_CODES: ReadonlyMap<FdbErrorCode, ExitCode> = new Map([
  ['ERR_FDB_NO_HOLDER', 3],
  ['ERR_FDB_SERVICE', 3],
  ['ERR_FDB_BUSY', 4],
  ['ERR_FDB_FD_CLAIMED', 4],
  ['ERR_FDB_DENIED', 5],
  ['ERR_FDB_TRACE', 5],
  ['ERR_FDB_VERSION', 5],
  ['ERR_FDB_MAIN_PROCESS', 5],
  ['ERR_FDB_NO_STANDBY', 5],
  ['ERR_FDB_HELD_ALONE', 5],
  ['ERR_FDB_COMMAND_UNKNOWN', 5],
])

/** Errors that mean wrong usage, unless another process raised them. */
const USAGE: ReadonlySet<FdbErrorCode> = new Set<FdbErrorCode>([
  'ERR_FDB_OPTION',
  'ERR_FDB_PATH_TOO_LONG',
  'ERR_FDB_SPEC',
  'ERR_FDB_STATE_SOURCE',
])

export function exitCodeOf(error: FdbError): ExitCode {
  if (USAGE.has(error.code) && !isRemoteError(error) && !isPathTaken(error)) return 2
  return SPECIAL_CODES.get(error.code) ?? 1
}

/** Whether the address of a listener is valid, but another file or process has its path. */
function isPathTaken({ code, details }: FdbError): boolean {
  return code === 'ERR_FDB_SPEC' && 'path' in details
}
