import { FdbError } from '../errors.js'

export function closed(): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_CLOSED',
    'the state is closed: its member was closed, or has left; read it before, or join() again',
  )
}
