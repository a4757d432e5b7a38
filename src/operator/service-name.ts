import { basename } from 'node:path'
import { FdbError } from '../errors.js'
import type { Operations } from './requests.js'

export interface ServedService {
  readonly service: string
  readonly control: string | null
}

/** Throws ERR_FDB_SERVICE unless the operator named this service, its control socket (the file name without `.sock`), or nothing. */
export function refuseOtherService(requested: string, { service, control }: ServedService): void {
  const socketName = control === null ? service : basename(control, '.sock')
  if (requested === '' || requested === service || requested === socketName) return
  throw new FdbError(
    'ERR_FDB_SERVICE',
    `the control socket ${control} belongs to the service "${service}", not to "${requested}": omit --service, or give the control socket of "${requested}"`,
  )
}

/** Wraps the operations so that upgrades and commands for another service are refused. */
export function operationsOnly(only: ServedService, operations: Operations): Operations {
  return {
    ...operations,
    upgrade: async (order, progress, cancel, by) => {
      refuseOtherService(order.service, only)
      return await operations.upgrade(order, progress, cancel, by)
    },
    command: async (order, context) => {
      refuseOtherService(order.service, only)
      return await operations.command(order, context)
    },
  }
}

/** The name of a daemon's own service, which the next daemon joins. Operators address the daemon by it. */
export const DAEMON_ITSELF = 'fd-broker.daemon'
