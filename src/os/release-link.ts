import {
  type BigIntStats,
  lstatSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs'
import { basename, dirname, isAbsolute, join, resolve } from 'node:path'
import { FdbError } from '../errors.js'

/** A release and the link that must point to it. Both paths are absolute. */
export interface Release {
  /** The release link: a symbolic link in the path of a server's command. */
  readonly at: string
  /** The release: its folder or its executable. */
  readonly to: string
}

/** The targets of a release link, as the links store them: a relative path is relative to the folder of the link. */
export interface LinkTargets {
  readonly to: string
  /** Target of the link `AT.previous`, which keeps the previous release; null if it does not exist. */
  readonly previous: string | null
}

/** Returns the targets of the release link `at`; null if it is not a symbolic link. Throws ERR_FDB_RELEASE_LINK if this user may not look. */
export function linkTargets(at: string): LinkTargets | null {
  const to = targetOf(at)
  return to === null ? null : { to, previous: targetOf(previousOf(at)) }
}

/** Returns the path that keeps the release before the one at `at`. */
export function previousOf(at: string): string {
  return `${at}.previous`
}

/**
 * Throws ERR_FDB_NO_BINARY if the absolute path `release` leads through `at`, or through the path that keeps the previous release: an installation
 * changes both, so another release than the named one would start, or none.
 */
export function refuseOwnPath(at: string, release: string): void {
  const folder = realPathOf(dirname(at)) ?? dirname(at)
  const own = passedLink(
    release,
    [at, previousOf(at)].map(path => join(folder, basename(path))),
  )
  if (own === null) return
  const why = `${release} is no release of its own: the installation changes ${own}. Give the path of the release; the previous one comes back by fd-broker rollback --at ${at}`
  throw new FdbError('ERR_FDB_NO_BINARY', why, { details: { path: release } })
}

/** As the kernel has it, see path_resolution(7). */
const MOST_LINKS = 40

/** Returns the first of these paths that the kernel passes on its way to `path`, through links too; null if it passes none. */
function passedLink(path: string, own: readonly string[]): string | null {
  let at = '/'
  let links = 0
  const rest = path.split('/')
  for (let name = rest.shift(); name !== undefined; name = rest.shift()) {
    const next = join(at, name)
    if (own.includes(next)) return next
    const target = targetOf(next)
    if (target !== null && ++links <= MOST_LINKS) {
      if (isAbsolute(target)) at = '/'
      rest.unshift(...target.split('/'))
    } else at = next
  }
  return null
}

/** Replaces `AT.previous`, then the release link, each atomically. Throws ERR_FDB_NO_BINARY, ERR_FDB_RELEASE_LINK. */
export function switchLink(at: string, { to, previous }: LinkTargets): void {
  if (seenAt(resolve(dirname(at), to), statSync) === undefined)
    throw new FdbError('ERR_FDB_NO_BINARY', `there is no release at ${to}: give the path of its folder`, {
      details: { path: to },
    })
  try {
    if (previous === null) rmSync(previousOf(at), { force: true })
    else replaceLink(previousOf(at), previous)
    replaceLink(at, to)
  } catch (cause) {
    throw unchangeable(at, cause)
  }
}

/** Returns the error of a release link or executable that this process cannot replace. */
export function unchangeable(at: string, cause: unknown): FdbError {
  const { code = String(cause) } = cause as NodeJS.ErrnoException
  const why = `process ${process.pid} (uid ${process.geteuid?.()}) cannot replace ${at} (${code}): check that its user can write to ${dirname(at)}`
  return new FdbError('ERR_FDB_RELEASE_LINK', why, { cause, details: { path: at } })
}

/** Creates a symbolic link, or replaces it atomically. */
export function replaceLink(path: string, to: string): void {
  if (targetOf(path) === to) return
  const aside = `${path}.${process.pid}~`
  rmSync(aside, { force: true })
  symlinkSync(to, aside)
  try {
    renameSync(aside, path)
  } catch (error) {
    rmSync(aside, { force: true })
    throw error
  }
}

/** Returns undefined if nothing is there. Throws ERR_FDB_RELEASE_LINK if this user may not look. */
export function seenAt(path: string, look: typeof statSync = lstatSync): BigIntStats | undefined {
  try {
    return look(path, { bigint: true, throwIfNoEntry: false })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const why = `${path} cannot be looked at (${code}): check that uid ${process.geteuid?.()} can enter ${dirname(path)}`
    throw new FdbError('ERR_FDB_RELEASE_LINK', why, { cause: error, details: { path } })
  }
}

function targetOf(path: string): string | null {
  try {
    return readlinkSync(path)
  } catch {
    // Throws if this user may not look. Otherwise nothing is there, or another file.
    seenAt(path)
    return null
  }
}

/** Returns the path of the file to which `path` leads, without symbolic links; null if there is none. */
export function realPathOf(path: string): string | null {
  try {
    return realpathSync(path)
  } catch {
    return null
  }
}
