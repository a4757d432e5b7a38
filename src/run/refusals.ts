import { FdbError } from '../errors.js'

/** Where no version has failed. */
export function whyNot(outcome: 'failed' | 'cancelled' | 'ending'): FdbError {
  return outcome === 'ending'
    ? new FdbError('ERR_FDB_ABORTED', `process ${process.pid}, which supervises it, was told to end`)
    : new FdbError('ERR_FDB_ABORTED', 'the upgrade was cancelled; the version that serves stays')
}

export function busy(): FdbError {
  const why = `process ${process.pid} is just bringing a version to serve, or has another process to end: try again when that is done`
  return new FdbError('ERR_FDB_BUSY', why, { retryable: true })
}

export function nothingToRead(): FdbError {
  const why = `process ${process.pid} was started without --config: there is nothing to be read anew; fd-broker upgrade starts the next version`
  return new FdbError('ERR_FDB_COMMAND_UNKNOWN', why)
}

export function nobodyStandsBy(): FdbError {
  const why = `process ${process.pid} knows no version before that could be started again: fd-broker rollback --at PATH upgrades to the release that upgrade --binary has kept, fd-broker upgrade -- COMMAND to another; a program that speaks fd-broker is asked at its own control socket`
  return new FdbError('ERR_FDB_NO_STANDBY', why)
}
