/** fd-broker: replace a running server with its next version without losing a connection. */

import type { Daemon, DaemonOptions } from './daemon/daemon.js'
import { OperatorClient as Client } from './operator/client.js'
import type { WorkersOptions } from './workers/options.js'
import type { Workers } from './workers/workers.js'

export type { Logger } from './base/logger.js'
export type { SocketProtocol } from './connections/adapters/application-socket.js'
export type { HttpHooks } from './connections/adapters/http-server.js'
export type { Daemon, DaemonOptions } from './daemon/daemon.js'
export { FdbError, type FdbErrorCode, FdbTypeError } from './errors.js'
export type { EventFacts, EventType, ServiceEvent } from './events/events.js'
export type { Requester } from './events/requester.js'
export type { HandoffTimes } from './holder/times.js'
export { OwnedFd, onLeak } from './kernel/index.js'
export {
  formatListenerSpec,
  type ListenerOptions,
  type ListenerSpec,
  type OptionChange,
  parseListenerSpec,
} from './listeners/index.js'
export { join } from './member/joining/join.js'
export { runOnce } from './member/joining/process-member.js'
export { type AnswersOptions, answers } from './member/lifecycle/answers.js'
export type { StartWork, StopWork } from './member/lifecycle/leadership.js'
export type { Listener, ListenerAddress } from './member/listeners/listener.js'
export type { ServableServer, ServeOptions } from './member/listeners/serve-options.js'
export type { EventsOptions, Member } from './member/member.js'
export type { StayOptions } from './member/operator/stay.js'
export type {
  Check,
  CloseOptions,
  MemberEvents,
  ReadyOptions,
  RetiredReason,
  UpgradeOptions,
} from './member/options/member-options.js'
export type { JoinOptions } from './member/options/options.js'
export type {
  CommandContext,
  CommandHandler,
  Upgraded,
  UpgradeProgress,
} from './operator/requests.js'
export type {
  Failure,
  ForcedClose,
  HandoffRecord,
  StatusReport,
} from './operator/status-report.js'
export type { BulkChange, EntryChange } from './state/bulk.js'
export * as codec from './state/codec.js'
export { REMOVE, type StateDraft } from './state/draft.js'
export type { StateFileOptions } from './state/file/files.js'
export type { StateFileStatus } from './state/file/state-file.js'
export type { StateLimits } from './state/limits.js'
export type { WriteOptions } from './state/requests.js'
export { defineSection, type SectionOptions, type SectionSchema } from './state/schema.js'
export type { Section } from './state/section.js'
export type { ChangeListener, SectionChange } from './state/section-store.js'
export { runInSlices, type SliceOptions } from './state/time-slices.js'
export { type TicketKeyOptions, TicketKeys } from './tls/ticket-keys.js'
export { shareTicketKeys, type TicketKeyPair, useTicketKeys } from './tls/ticket-server.js'
export type { WorkersOptions } from './workers/options.js'
export type { Workers } from './workers/workers.js'

/** Exported for release 0.4.0, which exported it here; new code imports `fd-broker/operator`. @internal */
export const OperatorClient = Client

/** Starts a daemon. Rejects with ERR_FDB_OPTION, or with ERR_FDB_CONTROL_TAKEN if another process listens at the path. Loads the code of daemons at the first call. */
export async function serveDaemon(options: DaemonOptions): Promise<Daemon> {
  return await (await import('./daemon/daemon.js')).serveDaemon(options)
}

/**
 * Starts workers, and keeps them running. Resolves when all serve, or if another main process takes over or an operator stops the service meanwhile. Rejects, with no process left, with ERR_FDB_OPTION,
 * ERR_FDB_CONTROL_TAKEN, and with the reason why a worker failed to start. If a main process already runs the service, this one takes over
 * from it and then replaces its workers. Then, and while a worker of a previous main process lives, the failure of a worker is logged and is in
 * `report`: the old worker keeps serving, or the worker is started again later.
 */
export async function startWorkers(options: WorkersOptions): Promise<Workers> {
  return await (await import('./workers/workers.js')).startWorkers(options)
}
