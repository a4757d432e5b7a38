import { FdbError } from '../../errors.js'
import type { Listener } from './listener.js'

export function listenerTwice(name: string): FdbError {
  return new FdbError(
    'ERR_FDB_LISTENER_TWICE',
    `listener "${name}" is already open: use the listener that the first listen() returned`,
  )
}

export function withoutServer({ adopted, name, address }: Listener): FdbError {
  return new FdbError(
    'ERR_FDB_UNSERVED',
    `listener "${name}" (${address.url})${adopted ? ' was taken over and' : ''} has no server: its clients would wait and never be accepted. Call serve() before ready(), or ready({ unserved: ['${name}'] }) if that is intended`,
    { details: { listener: name } },
  )
}

export function openedMeanwhile(name: string, address: string): FdbError {
  return new FdbError(
    'ERR_FDB_UNSERVED',
    `the incumbent opened listener "${name}" (${address}) while this version started, and this version does not listen there: its clients would be refused. Start the upgrade again, so that this version finds it, or call ready({ unserved: ['${name}'] }) if that is intended`,
    { retryable: true, details: { listener: name } },
  )
}
