/** Owned descriptors, listener specifications and binding, inspection. */

export { formatAddress } from './address.js'
export { adjustListener, type OptionChange, setBacklog } from './adjust.js'
export { bindListener } from './bind.js'
export { type Hangup, hangups } from './hangups.js'
export {
  type FdIdentity,
  firstNotStream,
  type Inspected,
  inspect,
  inspectOne,
  verifyIdentity,
} from './inspect.js'
export { commandOf, findOccupant, type Occupant } from './occupant.js'
export { closeAll, type Leak, OwnedFd, onLeak } from './owned.js'
export {
  DEFAULT_BACKLOG,
  formatListenerSpec,
  type ListenerKind,
  type ListenerOptions,
  type ListenerSpec,
  MAX_UNIX_NAME,
  parseListenerSpec,
} from './spec.js'
