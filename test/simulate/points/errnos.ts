/** The errors that the kernel can give at a call, for a reason outside the program. `close()` and calls that only look at a descriptor of the process have none. */
const OF_DISK = ['EIO', 'ENOSPC'] as const
const OF_TREE = ['EACCES', 'EIO'] as const
const OF_NEW = ['EMFILE', 'ENFILE'] as const

export const ERRNOS: Readonly<Record<string, readonly string[]>> = {
  accept: ['EMFILE', 'ECONNABORTED', 'ENOBUFS'],
  socketPair: [...OF_NEW, 'ENOMEM'],
  dup: ['EMFILE'],
  memfd: [...OF_NEW, 'ENOMEM'],
  reopenReadOnly: [...OF_NEW, 'EACCES'],
  peerPidfd: ['EMFILE', 'ESRCH'],
  pidfdOpen: ['EMFILE', 'ESRCH'],
  pidfdSignal: ['ESRCH', 'EPERM'],
  openLockFile: [...OF_NEW, 'EACCES', 'ENOSPC'],
  connectUnix: ['EMFILE', 'ENOENT', 'ECONNREFUSED', 'EAGAIN'],
  bindSocket: ['EMFILE', 'EADDRINUSE', 'EACCES', 'ENOSPC'],
  listen: ['EADDRINUSE'],
  sendMessage: ['ENOMEM', 'ENOBUFS'],
  receiveMessage: ['ENOMEM'],
  pwrite: ['ENOSPC', 'ENOMEM'],
  addSeals: ['EBUSY'],
  addSealsAside: ['EBUSY'],
  createPoll: ['ENOMEM', 'ENOSPC'],
  spawn: ['EAGAIN', 'EMFILE', 'ENOMEM', 'ENOENT'],
  killAtEnd: ['EAGAIN', 'EMFILE', 'ENOMEM'],
  open: [...OF_NEW, ...OF_TREE, 'ENOSPC'],
  openSync: [...OF_NEW, ...OF_TREE, 'ENOSPC'],
  readFileSync: ['EMFILE', 'EACCES', 'ENOENT'],
  writeFileSync: ['EMFILE', ...OF_DISK],
  lstat: OF_TREE,
  lstatSync: OF_TREE,
  statSync: OF_TREE,
  accessSync: OF_TREE,
  chmodSync: ['EPERM', 'EIO'],
  mkdirSync: ['EACCES', ...OF_DISK],
  link: [...OF_TREE, 'ENOSPC', 'EPERM'],
  linkSync: [...OF_TREE, 'ENOSPC', 'EPERM'],
  unlink: OF_TREE,
  unlinkSync: OF_TREE,
  rmSync: OF_TREE,
  rename: [...OF_TREE, 'ENOSPC'],
  renameSync: [...OF_TREE, 'ENOSPC'],
  readdir: ['EMFILE', ...OF_TREE],
  readdirSync: ['EMFILE', ...OF_TREE],
  readlinkSync: ['EACCES', 'ENOENT'],
  statfs: ['EIO', 'ENOSYS'],
  write: OF_DISK,
  writeSync: OF_DISK,
  read: ['EIO'],
  readSync: ['EIO'],
  fsync: OF_DISK,
  fsyncSync: OF_DISK,
  fdatasync: OF_DISK,
  fdatasyncSync: OF_DISK,
  ftruncate: OF_DISK,
  ftruncateSync: OF_DISK,
  truncateSync: OF_DISK,
}

/** Errors of sends with descriptors only. */
export const ERRNOS_OF_FDS = ['ETOOMANYREFS'] as const

/** Calls that can move a part of their bytes. */
export const IN_PARTS: ReadonlySet<string> = new Set([
  'sendMessage',
  'receiveMessage',
  'pwrite',
  'write',
  'writeSync',
])

/** The call takes away its cause: it does not fail again for the same reason. */
export const ONCE: ReadonlySet<string> = new Set(['ECONNABORTED', 'ESRCH'])

/** Calls of another thread, and starts. */
export const CAN_BE_LATE: ReadonlySet<string> = new Set([
  'setTimeout',
  'spawn',
  'open',
  'lstat',
  'rename',
  'link',
  'unlink',
  'readdir',
  'statfs',
  'read',
  'write',
  'fstat',
  'ftruncate',
  'fsync',
  'fdatasync',
])
