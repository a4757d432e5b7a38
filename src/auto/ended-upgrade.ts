import { FdbError } from '../errors.js'
import { codeAndMessageOf, printReason } from './stderr.js'

/**
 * Whether the process that serves has ended this upgrade, or does not begin it: an operator has stopped the service or cancelled the upgrade, or another
 * version is joining. A version that then went on alone would serve on at addresses that have become free, beside the service.
 */
export function isEndOfUpgrade(error: unknown): boolean {
  return FdbError.is(error) && (error.code === 'ERR_FDB_ABORTED' || error.code === 'ERR_FDB_BUSY')
}

/** Ends this process, which does not serve. */
export function endVersion(error: unknown): never {
  printReason(`this version does not serve: ${codeAndMessageOf(error)}`)
  process.exit(1)
}
