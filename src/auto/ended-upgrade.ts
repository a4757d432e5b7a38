import { FdbError } from '../errors.js'
import { codeAndMessageOf, print } from './stderr.js'

/**
 * Whether the process that serves has ended this upgrade: an operator has stopped the service, or cancelled the upgrade. A version that then went on alone
 * would serve on at addresses that have become free.
 */
export function isEndOfUpgrade(error: unknown): boolean {
  return FdbError.is(error) && error.code === 'ERR_FDB_ABORTED'
}

/** Ends this process, which does not serve. */
export function endVersion(error: unknown): never {
  print(`this version does not serve: ${codeAndMessageOf(error)}`)
  process.exit(1)
}
