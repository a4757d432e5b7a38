import { basename } from 'node:path'
import { FdbError } from '../errors.js'
import type { Operations } from './requests.js'

export interface ServedService {
  readonly service: string
  readonly control: string | null
}

/** Throws ERR_FDB_SERVICE if the operator named another service. Also accepts the base name of the control socket. */
export function refuseOtherService(requested: string, { service, control }: ServedService): void {
  const socketName = control === null ? service : basename(control, '.sock')
  if (requested === '' || requested === service || requested === socketName) return
  throw new FdbError(
    'ERR_FDB_SERVICE',
    `the control socket ${control} belongs to the service "${service}", not to "${requested}": omit --service, or give the control socket of "${requested}"`,
  )
}

/** Returns the same operations, which refuse requests for another service. */
export function operationsOnly(only: ServedService, operations: Operations): Operations {
  return {
    ...operations,
    upgrade: async (order, progress, cancel) => {
      refuseOtherService(order.service, only)
      return await operations.upgrade(order, progress, cancel)
    },
    command: async (order, context) => {
      refuseOtherService(order.service, only)
      return await operations.command(order, context)
    },
  }
}

/** The service name of a daemon itself: the next daemon joins it, and operators use it to address the daemon. */
export const DAEMON_ITSELF = 'fd-broker.daemon'
