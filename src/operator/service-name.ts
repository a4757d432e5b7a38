import { basename } from 'node:path'
import { FdbError } from '../errors.js'
import type { Operations } from './requests.js'

export interface ServedService {
  readonly service: string
  readonly control: string | null
}

/** Throws ERR_FDB_SERVICE if an operator means another service. The name of the control socket, by which it was found, is right too. */
export function refuseOtherService(asked: string, { service, control }: ServedService): void {
  const found = control === null ? service : basename(control, '.sock')
  if (asked === '' || asked === service || asked === found) return
  throw new FdbError(
    'ERR_FDB_SERVICE',
    `the control socket ${control} is of the service "${service}", not of "${asked}": leave --service out, or give the control socket of that one`,
  )
}

/** The same operations, for those alone who mean this service. */
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

/** The service of a daemon itself, by which the next daemon takes over: in its Hello, and for operators who mean the daemon. */
export const DAEMON_ITSELF = 'fd-broker.daemon'
