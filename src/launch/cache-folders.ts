import { lstatSync, realpathSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, isAbsolute, join } from 'node:path'

/** A folder of compiled code. */
export interface CacheFolder {
  readonly path: string
  /** The only user to whom it, and the files in it, may belong. */
  readonly uid: number
  /** It is below the user's own folders: nobody else may replace one of the folders on the way there. */
  readonly guarded: boolean
  readonly mayWrite: boolean
  /** Of the folder when it is made; its files have the same without the right to execute. */
  readonly mode: number
}

/** Names a folder for compiled code; `off`: there is none. */
const VARIABLE = 'FD_BROKER_CODE_CACHE'
const OTHERS_WRITE = 0o022

/**
 * Where compiled code may be, the best first: in the package's own folder, if it belongs to who owns the program (who could change that, too), and
 * then in the cache folder of this user. Nothing is read from, or written to, a folder that somebody else could write to.
 */
export function cacheFolders(
  root: string,
  program: { readonly uid: number; readonly mode: number },
  env: NodeJS.ProcessEnv = process.env,
): CacheFolder[] {
  const user = process.geteuid?.()
  const named = env[VARIABLE]
  if (user === undefined || named === 'off') return []
  const own = (path: string): CacheFolder => ({ path, uid: user, guarded: true, mayWrite: true, mode: 0o700 })
  if (named) return isAbsolute(named) ? [own(named)] : []
  const beside: CacheFolder = {
    path: join(root, '.code-cache'),
    uid: program.uid,
    guarded: false,
    mayWrite: program.uid === user,
    mode: 0o755,
  }
  return [...((program.mode & OTHERS_WRITE) === 0 ? [beside] : []), own(join(userFolder(env), 'fd-broker'))]
}

/** CACHE_DIRECTORY is systemd's: the first of a list. */
function userFolder(env: NodeJS.ProcessEnv): string {
  const given = [env.CACHE_DIRECTORY?.split(':')[0], env.XDG_CACHE_HOME].find(
    path => path && isAbsolute(path),
  )
  return given ?? join(homedir(), '.cache')
}

/** Whether nobody but its user can have written to it; with `file`, nor to that. Throws when one of them is not there. */
export function isPrivate({ path, uid, guarded }: CacheFolder, file?: string): boolean {
  const isOwn = (stats: { uid: number; mode: number }) =>
    stats.uid === uid && (stats.mode & OTHERS_WRITE) === 0
  const folder = lstatSync(path)
  if (!folder.isDirectory() || !isOwn(folder)) return false
  if (guarded && !isGuarded(realpathSync(path), uid)) return false
  if (file === undefined) return true
  const stats = lstatSync(file)
  return stats.isFile() && isOwn(stats)
}

/** Whether all folders above belong to root or to the user, and others cannot rename what is in them. */
function isGuarded(path: string, uid: number): boolean {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    const { uid: owner, mode } = lstatSync(folder)
    const sticky = (mode & 0o1000) !== 0
    if ((owner !== 0 && owner !== uid) || ((mode & OTHERS_WRITE) !== 0 && !sticky)) return false
    if (folder === dirname(folder)) return true
  }
}
