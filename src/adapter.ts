/**
 * What a relay of one's own needs, to have its connections go on in the next version: the record of a connection, descriptors
 * with owners, and what it registers with `listener.serve(server, { keeper })`. The reference proxy's relay imports
 * nothing else of what a connection needs to move.
 */

export { abandon, canLeave, connectionOf } from './connections/adapters/node-socket.js'
export {
  type Arrival,
  type ConnectionValue,
  type Departure,
  decoded,
  MAX_CONNECTION_FDS,
  MAX_RECORD_BYTES,
  type MovableConnections,
  type MoveWhich,
  onlyConnection,
  type Witness,
} from './connections/movable.js'
export { FdbError } from './errors.js'
export {
  closeAll,
  duplicateLent,
  firstNotStream,
  type Hangup,
  hangups,
  type Inspected,
  inspect,
  inspectOne,
  isBeyond,
  isLent,
  type Leak,
  type LentFd,
  OwnedFd,
  onLeak,
  ownNumber,
  socketOver,
} from './kernel/index.js'
export type { DrainCounts } from './member/forced-closes.js'
export type { ConnectionKeeper } from './member/serve-options.js'
export { fdLimits } from './os/limits.js'
