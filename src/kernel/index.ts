/** Kernel objects, each with one owner. The only entry of this folder: other folders use neither the addon nor raw descriptor numbers. */
import { native } from './native.js'

export { addonFile } from './addon.js'
export {
  adoptOrphans,
  type ChildStart,
  duplicateFrom,
  endedChild,
  executeInstead,
  executeWith,
  hasEnded,
  holdSignals,
  type ProgramStart,
  peerLives,
  peerPidfd,
  pidfdOf,
  pidOfPidfd,
  reapChild,
  releaseSignals,
  signalTo,
  startChild,
} from './child.js'
export {
  identityNow,
  openFile,
  openLockFile,
  readAt,
  readNext,
  sizeOf,
  statOf,
  sync,
  syncData,
  syncFolder,
  syncNow,
  truncate,
  truncateNow,
  tryLock,
  tryLockNow,
  writeAllAt,
  writeAt,
  writeNow,
  writerInto,
} from './file.js'
export {
  ackedBytes,
  duplicateLent,
  type Hangup,
  hangups,
  isBeyond,
  isLent,
  keepAlive,
  type LentFd,
  listenOver,
  numbersOf,
  ownNumber,
  releaseNumber,
  sendBytes,
  socketOver,
} from './for-node.js'
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
  sleepSync,
} from './memory-file.js'
export { type NativeError, requireAddon } from './native.js'
export { closeAll, type Leak, makeRoom, OwnedFd, onLeak } from './owned.js'
export { hasPolledSockets, type KernelAddress, type Lent, PolledSocket } from './polled-socket.js'
export {
  accept,
  type BindOptions,
  bindSocket,
  connectToAbstract,
  connectToDatagram,
  connectToUnix,
  firstNotStream,
  type Inspected,
  inspect,
  inspectOne,
  listen,
  MAX_FDS_PER_MESSAGE,
  namesSocket,
  type PeerCredentials,
  peerCredentials,
  type ReceivedDatagram,
  type ReceivedMessage,
  receiveDatagram,
  receiveMessage,
  sendMessage,
  setBlocking,
  setSocketOption,
  socketPair,
  unreadBytes,
} from './socket.js'
export { type Poll, READABLE, WRITABLE, watch, watchPaths } from './watch.js'

/** See {@link Native}. `scanChanges()` writes {@link CHANGE_FIELDS} numbers for each change. */
export const { addSums, scanChanges } = native
export const CHANGE_FIELDS = 11
