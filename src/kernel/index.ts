/** The kernel's objects, each in the hands of one owner. The door of this room: the addon and its numbers stay behind it. */

export { addonFile } from './addon.js'
export { CHANGE_FIELDS, scanChanges } from './changes.js'
export {
  adoptOrphans,
  type ChildStart,
  endedChild,
  executeInstead,
  executeWith,
  type ProgramStart,
  reapChild,
  startChild,
} from './child.js'
export {
  identityNow,
  openFile,
  readAt,
  readOn,
  sizeOf,
  statOf,
  sync,
  syncData,
  syncFolder,
  syncNow,
  truncate,
  truncateNow,
  tryLockNow,
  writeAllAt,
  writeAt,
  writeNow,
  writerInto,
} from './file.js'
export {
  duplicateLent,
  giveNumber,
  type Hangup,
  hangups,
  isBeyond,
  isLent,
  keepAlive,
  type LentFd,
  listenOver,
  numbersOf,
  ownNumber,
  sendOn,
  socketOver,
  takenBytes,
} from './for-node.js'
export { firstNotStream, type Inspected, inspect, inspectOne } from './inspection.js'
export { openLockFile, tryLock } from './lock.js'
export {
  addSeals,
  memoryFile,
  reopenReadOnly,
  reopenWritable,
  SEAL_EXEC,
  SEAL_FUTURE_WRITE,
  SEAL_GROW,
  SEAL_SEAL,
  SEAL_SHRINK,
  SEAL_WRITE,
  sealsOf,
} from './memory-file.js'
export {
  MAX_FDS_PER_MESSAGE,
  type ReceivedDatagram,
  type ReceivedMessage,
  receiveDatagram,
  receiveMessage,
  sendMessage,
} from './message.js'
export type { NativeError } from './native.js'
export { closeAll, type Leak, OwnedFd, onLeak } from './owned.js'
export { hasEnded, peerLives, peerPidfd, pidBehind, pidfdOf, signalTo, takeFrom } from './pidfd.js'
export { type KernelAddress, type Lent, PolledSocket, polledSockets } from './polled-socket.js'
export { restNow } from './rest-now.js'
export { holdSignals, releaseSignals } from './signals.js'
export {
  accept,
  type BindOptions,
  bindSocket,
  connectToAbstract,
  connectToDatagram,
  connectToUnix,
  listen,
  namesSocket,
  type PeerCredentials,
  peerCredentials,
  setBlocking,
  setSocketOption,
  socketPair,
  unreadBytes,
} from './socket.js'
export { addSums } from './sums.js'
export { makeRoom } from './table.js'
export { type Poll, READABLE, WRITABLE, watch, watchHangup, watchPaths } from './watch.js'
