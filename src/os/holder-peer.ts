import { lstatSync, type Stats, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { FdbError } from '../errors.js'
import { type OwnedFd, peerCredentials, peerLives } from '../kernel/index.js'

/** A member gives and takes descriptors and state; an operator's tool asks. */
export type Asker = 'member' | 'operator'

const WRITABLE_BY_OTHERS = 0o022
const STICKY = 0o1000

/**
 * Throws unless whoever listens at the control path may be believed: the kernel's word on the peer of `channel` is this user
 * or root, and so is who may put a socket there. Root may also ask, as an operator, the service of another user in a folder
 * of that user's own. ERR_FDB_DENIED, ERR_FDB_CONTROL_PATH. Borrows the descriptor.
 */
export function checkHolder(channel: OwnedFd, path: string, asker: Asker): void {
  const { uid: peer } = peerCredentials(channel)
  const own = process.geteuid?.() ?? peer
  const folder = statSync(dirname(path))
  const trusted = new Set([own, 0])
  if (own === 0 && asker === 'operator' && (folder.mode & STICKY) === 0) trusted.add(folder.uid)
  refuseOpenFolder(dirname(path), folder, trusted)
  // A server that was started as root and has become another user since: what is in root's folder root has put there.
  if (own === 0 && folder.uid === 0 && (folder.mode & WRITABLE_BY_OTHERS) === 0) return
  const owner = lstatSync(path, { throwIfNoEntry: false })?.uid ?? peer
  for (const [uid, what] of [
    [peer, `${nameOf(channel)}, which listens there, runs as`],
    [owner, 'it belongs to'],
  ] as const) {
    if (trusted.has(uid)) continue
    const users = [...trusted].map(user => (user === 0 ? 'root' : `uid ${user}`)).join(' or ')
    throw new FdbError(
      'ERR_FDB_DENIED',
      `${path} is not to be trusted: ${what} uid ${uid}, not ${users}: use a folder of your own (mode 0700), or run as that user`,
      { details: { path, uid } },
    )
  }
}

/** Who may write to the folder may put another socket in the place of ours. In a sticky one (/tmp) only its owner may. */
export function refuseOpenFolder(
  folder: string,
  { mode, uid }: Pick<Stats, 'mode' | 'uid'>,
  trusted: ReadonlySet<number>,
): void {
  const own = process.geteuid?.() ?? uid
  const why = !trusted.has(uid)
    ? `belongs to uid ${uid}, not to this user (${own}) or root`
    : (mode & WRITABLE_BY_OTHERS) !== 0 && (mode & STICKY) === 0
      ? `may be written to by others (mode 0${(mode & 0o7777).toString(8)})`
      : null
  if (why === null) return
  throw new FdbError(
    'ERR_FDB_CONTROL_PATH',
    `the folder ${folder} of the control socket ${why}, who could replace the socket: use a folder of your own, mode 0700`,
    { details: { folder, mode, uid } },
  )
}

/**
 * The process that listens at the other end of a client's connection, and lives: whoever accepts on a control socket has
 * called listen() on it, so that the kernel names it. 0: another PID namespace, or one that has handed over and ended.
 */
export function listeningPid(channel: OwnedFd): number {
  const { pid } = peerCredentials(channel)
  try {
    return peerLives(channel) === false ? 0 : pid
  } catch {
    return pid
  }
}

/** `process 123`, or `a process` when it cannot be named. */
export function nameOf(channel: OwnedFd): string {
  const pid = listeningPid(channel)
  return pid > 0 ? `process ${pid}` : 'a process'
}
