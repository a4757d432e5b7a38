/** Kernel objects, each with one owner. The only entry of this folder: other folders use neither the addon nor raw descriptor numbers. */
import { native } from './native.js'

export { addonFile } from './addon.js'
export * from './child.js'
export * from './datagram-socket.js'
export * from './file.js'
export * from './for-node.js'
export {
  type BindOptions,
  DISCONNECT,
  type Inspected,
  type KeyIndex,
  MAX_FDS_PER_MESSAGE,
  type NativeError,
  type PeerCredentials,
  type Poll,
  READABLE,
  requireAddon,
  SEAL_EXEC,
  SEAL_FUTURE_WRITE,
  SEAL_GROW,
  SEAL_SEAL,
  SEAL_SHRINK,
  SEAL_WRITE,
  type TlsConnection,
  WRITABLE,
} from './native.js'
export * from './owned.js'
export * from './polled-socket.js'
export * from './proc.js'
export * from './socket.js'
export * from './splice.js'
export * from './watch.js'

/** See {@link Native}. */
export const {
  addSums,
  amidTlsRecord,
  adoptOrphans,
  beginTls,
  createKeys,
  deleteKey,
  endedChild,
  findChanges,
  findKeys,
  findPuts,
  getKey,
  holdSignals,
  keysIn,
  madeTls,
  makeRoom,
  reapChild,
  releaseSignals,
  scanRuns,
  sealKeyUpdate,
  setKey,
  setKeys,
  threadCpuMs,
  writeTls,
} = native
/** The size of a change in the result of `scanRuns()`, in numbers. */
export const CHANGE_FIELDS = 10
