/**
 * Lets a custom relay move its connections to the next version: the record of a connection, descriptors with owners, and the
 * registration by `listener.serve(server, { keeper })`. The reference proxy's relay imports nothing else for moving.
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
export type { DatagramReader } from './member/listeners/attached-datagrams.js'
export type { DrainCounts } from './member/listeners/forced-closes.js'
export type { ConnectionKeeper } from './member/listeners/serve-options.js'
export { fdLimits } from './os/limits.js'
