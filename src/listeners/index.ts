/** Parses listener specifications, binds them, and checks whether a received descriptor is the announced one. */

export { adjustListener, currentOptions, type OptionChange } from './adjust.js'
export { bindFirstOfGroup, bindListener } from './bind.js'
export { type GuardedListener, ListenerGuard } from './guard.js'
export { type FdIdentity, formatAddress, listenerAddress, verifyIdentity } from './identity.js'
export { acceptQueueLength, commandOf, findOccupant, openTcpSockets } from './occupant.js'
export { hasSecondName } from './second-name.js'
export {
  addressOf,
  formatListenerSpec,
  isLocatedAt,
  isOfKind,
  isPath,
  type ListenerOptions,
  type ListenerSpec,
  MAX_UNIX_NAME,
  parseListenerSpec,
  parseSentSpec,
} from './spec.js'
