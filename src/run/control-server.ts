import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { EventLog } from '../events/event-log.js'
import { EVENTS_COMMAND, readEventsBody } from '../events/events.js'
import { orderFacts, type Requester } from '../events/requester.js'
import { HELLO_MS, receiveHello, serveCaller, turnAway } from '../holder/admission.js'
import type { OwnedFd, PeerCredentials } from '../kernel/index.js'
import { type Operations, refuseWithout, type Upgraded } from '../operator/requests.js'
import {
  ORDER_EVENTS,
  type ProcessReply,
  processReply,
  RELOAD,
  type ReloadReply,
  ROLLBACK,
  readStopOrder,
  rollbackAt,
  rollbackBy,
  STOP,
  UPGRADE_SELF,
} from '../operator/service-commands.js'
import { operationsOnly, type ServedService } from '../operator/service-name.js'
import { VERSIONS } from '../wire/link.js'
import type { RollbackOrder, SupervisorUpgradeOptions } from './upgrade-requests.js'

export interface OperableSupervisor {
  /** The id of the serving version; 0 if none serves. */
  readonly generation: number
  readonly eventLog: Pick<EventLog, 'note' | 'read'>
  /** Set before the answer to an order to end, which {@link stop} carries out after it. */
  isStopAnnounced: boolean
  status(): object
  upgrade(options: SupervisorUpgradeOptions, cancel: AbortSignal, by?: Requester): Promise<Upgraded>
  upgradeSelf(): Promise<never>
  reload(): Promise<ReloadReply>
  rollback(order: RollbackOrder, cancel: AbortSignal): Promise<ProcessReply>
  stop(options: { readonly timeoutMs?: number }): void
}

function operationsOf(supervisor: OperableSupervisor, { service, control }: ServedService): Operations {
  const { eventLog } = supervisor
  const operations: Operations = {
    status: () => supervisor.status(),
    upgrade: async ({ argv, timeoutMs, release, without }, progress, cancel, by) => {
      refuseWithout(without, 'is fd-broker run, which opens the listeners itself (--listen)')
      return await supervisor.upgrade({ argv, timeoutMs, release, progress }, cancel, by)
    },
    command: async ({ name, body }, { by, signal }) => {
      const type = ORDER_EVENTS.get(name)
      if (type !== undefined) eventLog.note(type, orderFacts(by))
      switch (name) {
        case STOP: {
          const { timeoutMs } = readStopOrder(body)
          const { generation } = supervisor
          supervisor.isStopAnnounced = true
          // The reply is sent before the supervisor closes the control socket.
          setImmediate(() => supervisor.stop(timeoutMs === null ? {} : { timeoutMs }))
          return processReply({ pid: process.pid, generation })
        }
        case EVENTS_COMMAND:
          return Buffer.from(JSON.stringify(eventLog.read(readEventsBody(body))))
        case RELOAD:
          return processReply(await supervisor.reload())
        case ROLLBACK:
          return processReply(
            await supervisor.rollback({ reason: rollbackBy(by), at: rollbackAt(body) }, signal),
          )
        case UPGRADE_SELF:
          return await supervisor.upgradeSelf()
      }
      throw new FdbError(
        'ERR_FDB_COMMAND_UNKNOWN',
        `process ${process.pid} supervises a program and knows no command "${name}": it knows upgrade, upgrade --self, reload, rollback, status and stop`,
      )
    },
  }
  return operationsOnly({ service, control }, operations)
}

/** Serves an operator's connection. Owns `fd`. */
export function serveRunOperator(
  fd: OwnedFd,
  credentials: PeerCredentials,
  supervisor: OperableSupervisor,
  service: ServedService,
  logger: Logger,
): void {
  const admission = { service: null, versions: VERSIONS, timeoutMs: HELLO_MS, logger }
  receiveHello(fd, credentials, admission, caller => {
    if (caller.intent !== 'operate') {
      const why = `process ${process.pid} is fd-broker run, which no process can join: give join() another control path, and pass that path to fd-broker run: --ready handoff:CONTROL`
      turnAway(caller, new FdbError('ERR_FDB_NOT_A_DAEMON', why))
      return
    }
    serveCaller(caller, operationsOf(supervisor, service))
  })
}
