/** Listener specifications and binding; whether a descriptor is the one that was announced. */

export { adjustListener, type OptionChange, optionsNow, setBacklog } from './adjust.js'
export { bindFirstOf, bindListener } from './bind.js'
export { type FdIdentity, formatAddress, verifyIdentity } from './identity.js'
export { commandOf, findOccupant, type Occupant, waitingAt } from './occupant.js'
export {
  addressOf,
  DEFAULT_BACKLOG,
  formatListenerSpec,
  isLocatedAt,
  isOfKind,
  type ListenerKind,
  type ListenerOptions,
  type ListenerSpec,
  MAX_UNIX_NAME,
  parseListenerSpec,
} from './spec.js'
