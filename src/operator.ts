/** Client for operators' tools: a service's status, upgrades, commands and state, and descriptors that a daemon holds. */

export { FdbError, type FdbErrorCode } from './errors.js'
export { OwnedFd } from './kernel/index.js'
export { type CommandAsk, OperatorClient, type UpgradeAsk } from './operator/client.js'
export type { ClaimOptions, HeldDescriptors, PutOptions, ReleaseOptions } from './operator/descriptors.js'
export type {
  ClaimingProcess,
  DescriptorLease,
  DescriptorsOfProcess,
  HeldDescriptor,
} from './operator/held-descriptors.js'
export type { AskOptions, Upgraded, UpgradeProgress } from './operator/requests.js'
export type {
  ServiceState,
  StateAsk,
  StateChange,
  StateEntry,
  StateReadOptions,
  StateSection,
  StateWatchOptions,
  StateWriteOptions,
} from './operator/service-state.js'
export type {
  DaemonStatus,
  ServiceStatus,
  StatusAnswer,
  StatusReport,
  WorkerReport,
  WorkersReport,
} from './operator/status-report.js'
