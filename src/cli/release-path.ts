import {
  chmodSync,
  copyFileSync,
  existsSync,
  linkSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs'
import { dirname, resolve } from 'node:path'
import { FdbError } from '../errors.js'
import { OperatorClient } from '../operator/client.js'
import { ANSWER_MS } from '../operator/requests.js'
import {
  linkTargets,
  previousOf,
  type Release,
  refuseOwnPath,
  seenAt,
  unchangeable,
} from '../os/release-link.js'
import type { SupervisorStatus } from '../run/status.js'
import { askStatus, type ServiceAddress, serviceOf, servingKey } from './status-answer.js'

/**
 * The path that a server is started from: a symbolic link to a release folder (`current`), or an executable. A release is installed there
 * atomically, and the release before it is kept as `PATH.previous`.
 */
export class ReleasePath {
  readonly path: string
  readonly #previous: string
  readonly #aside: string
  /** Keeps the former `PATH.previous` from {@link install} until {@link commit} or {@link revert}. */
  readonly #older: string
  /** Identifies the release that {@link install} has put at the path; null before. */
  #installed: string | null = null

  /** Throws ERR_FDB_NO_BINARY. */
  constructor(path: string) {
    this.path = resolve(path)
    this.#previous = previousOf(this.path)
    this.#aside = `${this.path}.${process.pid}~`
    this.#older = `${this.#previous}.${process.pid}~`
    if (pathKind(this.path) !== 'none') return
    const what = seenAt(this.path) === undefined ? 'does not exist' : 'is neither a symbolic link nor a file'
    throw missing(
      this.path,
      `${what}: give the symbolic link or the executable that the server is started from`,
    )
  }

  /** Returns the absolute path of the release that is kept. Throws ERR_FDB_NO_BINARY if none is. */
  get keptRelease(): string {
    const kind = pathKind(this.#previous)
    if (kind === 'none') throw nothingKept(this.#previous)
    return kind === 'link' ? resolve(dirname(this.path), readlinkSync(this.#previous)) : this.#previous
  }

  /** Installs `release`: switches a link to it, or replaces a file by a copy. Throws ERR_FDB_NO_BINARY, ERR_FDB_RELEASE_LINK. */
  install(release: string): void {
    const wanted = resolve(release)
    refuseOwnPath(this.path, wanted)
    const there = seenAt(wanted, statSync)
    if (there === undefined) throw missing(wanted, 'does not exist: give the release to install')
    const isLink = pathKind(this.path) === 'link'
    if (!isLink && !there.isFile())
      throw missing(wanted, `is not a file: only a file can replace the file ${this.path}`)
    this.#keep(this.#older)
    try {
      // A command of this pid may have been killed before it had renamed its own.
      rmSync(this.#aside, { force: true })
      if (isLink) symlinkSync(wanted, this.#aside)
      else {
        copyFileSync(wanted, this.#aside)
        chmodSync(this.#aside, Number(there.mode) & 0o7777)
      }
      renameSync(this.#aside, this.path)
      this.#installed = identityOf(this.path)
    } catch (error) {
      rmSync(this.#aside, { force: true })
      this.revert()
      throw unchangeable(this.path, error)
    }
  }

  /** Exchanges the installed release and the kept one. Throws ERR_FDB_NO_BINARY, ERR_FDB_RELEASE_LINK. */
  swap(): void {
    if (pathKind(this.#previous) === 'none') throw nothingKept(this.#previous)
    this.#keep(this.#aside)
    renameSync(this.#aside, this.path)
  }

  /** Removes the file that only {@link revert} needs. */
  commit(): void {
    rmSync(this.#older, { force: true })
  }

  /**
   * Undoes the last {@link install}: restores the release at the path, and the one that was kept before. Throws ERR_FDB_RELEASE_LINK, without an effect, if
   * another program has changed the path since.
   */
  revert(): void {
    if (this.#installed !== null && identityOf(this.path) !== this.#installed) {
      rmSync(this.#older, { force: true })
      const why = `another program has changed ${this.path}, which is left as it is`
      throw new FdbError('ERR_FDB_RELEASE_LINK', why, { details: { path: this.path } })
    }
    renameSync(this.#previous, this.path)
    if (pathKind(this.#older) !== 'none') renameSync(this.#older, this.#previous)
  }

  /** Keeps the installed release as `PATH.previous`, and moves the release that was kept there to `aside`. Throws without an effect. */
  #keep(aside: string): void {
    const kept = pathKind(this.#previous) !== 'none'
    try {
      if (kept) renameSync(this.#previous, aside)
    } catch (error) {
      throw unchangeable(this.path, error)
    }
    try {
      if (pathKind(this.path) === 'link') symlinkSync(readlinkSync(this.path), this.#previous)
      else linkSync(this.path, this.#previous)
    } catch (error) {
      if (kept) renameSync(aside, this.#previous)
      throw unchangeable(this.path, error)
    }
  }
}

function pathKind(path: string): 'none' | 'link' | 'file' {
  const stat = seenAt(path)
  if (stat?.isSymbolicLink()) return 'link'
  return stat?.isFile() ? 'file' : 'none'
}

/** Two commands that install in turn leave links that another command has made again: a link is its target. */
function identityOf(path: string): string | null {
  const stat = seenAt(path)
  if (stat === undefined) return null
  return stat.isSymbolicLink() ? readlinkSync(path) : `${stat.dev} ${stat.ino}`
}

function missing(path: string, why: string): FdbError {
  return new FdbError('ERR_FDB_NO_BINARY', `${path} ${why}`, { details: { path } })
}

function nothingKept(path: string): FdbError {
  return missing(path, 'does not exist: no earlier release was kept that could be restored')
}

/** Installs a release at the path that the server is started from, and reverts that if the upgrade fails. */
export interface ReleaseChange {
  apply(): void
  revert(): void
  commit?(): void
  readonly path: string
}

/** Upgrades to the release `to`. A supervisor switches the link itself, and back after a failure. For other servers this command does so. */
export async function upgradeTo<T>(
  address: ServiceAddress,
  to: string,
  change: ReleaseChange,
  upgrade: (release?: Release) => Promise<T>,
): Promise<T> {
  if (existsSync(to) && linkTargets(change.path) !== null && (await switchesLinks(address))) {
    try {
      return await upgrade({ at: change.path, to })
    } catch (error) {
      if (!FdbError.is(error) || error.code !== 'ERR_FDB_RELEASE_LINK') throw error
      process.stderr.write(`${error.message}: this command switches the link instead\n`)
    }
  }
  return await withRelease(address, change, () => upgrade())
}

/**
 * Runs an upgrade to another release, and restores the previous release if the upgrade fails. If it is unknown which process serves, keeps the
 * new release at the path, and prints a message.
 */
async function withRelease<T>(
  address: ServiceAddress,
  change: ReleaseChange,
  upgrade: () => Promise<T>,
): Promise<T> {
  const before = servingKey(await askStatus(address, ANSWER_MS))
  const begun = Date.now()
  change.apply()
  try {
    const upgraded = await upgrade()
    change.commit?.()
    return upgraded
  } catch (error) {
    const now = await askStatus(address, ANSWER_MS)
    // After a failed probation an older version may serve again.
    const older = Date.parse(now?.processStartedAt ?? '') < begun
    if (before !== null && (servingKey(now) === before || older)) {
      revert(change)
      throw error
    }
    change.commit?.()
    process.stderr.write(`it is unknown which version serves: ${change.path} keeps the new release\n`)
    throw error
  }
}

/** Never throws: the failure of the upgrade is what the command reports. */
function revert(change: ReleaseChange): void {
  try {
    change.revert()
  } catch (error) {
    process.stderr.write(`the release at ${change.path} was not restored: ${FdbError.from(error).message}\n`)
  }
}

/** Whether a supervisor switches the link. A supervisor in another container may see another file at the same path. */
async function switchesLinks({ control, service }: ServiceAddress): Promise<boolean> {
  try {
    using client = await OperatorClient.connect(control, { timeout: ANSWER_MS })
    const answer = await client.status({ timeout: ANSWER_MS })
    const { supervisor } = (serviceOf(answer, service) ?? {}) as Partial<SupervisorStatus>
    return supervisor?.leadsLinks === true && !client.inOtherPidNamespace
  } catch {
    return false
  }
}
