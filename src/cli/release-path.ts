import {
  chmodSync,
  copyFileSync,
  linkSync,
  lstatSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs'
import { dirname, resolve } from 'node:path'
import { FdbError } from '../errors.js'
import { previousOf, unchangeable } from '../os/release-link.js'

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

  /** Throws ERR_FDB_NO_BINARY. */
  constructor(path: string) {
    this.path = resolve(path)
    this.#previous = previousOf(this.path)
    this.#aside = `${this.path}.${process.pid}~`
    this.#older = `${this.#previous}.${process.pid}~`
    if (kindOf(this.path) === 'none')
      throw missing(
        this.path,
        'does not exist: give the symbolic link or the executable that the server is started from',
      )
  }

  /** Returns the absolute path of the release that is kept. Throws ERR_FDB_NO_BINARY if none is. */
  get keptRelease(): string {
    const kind = kindOf(this.#previous)
    if (kind === 'none') throw nothingKept(this.#previous)
    return kind === 'link' ? resolve(dirname(this.path), readlinkSync(this.#previous)) : this.#previous
  }

  /** Installs `release`: switches a link to it, or replaces a file by a copy. Throws ERR_FDB_NO_BINARY, ERR_FDB_RELEASE_LINK. */
  install(release: string): void {
    const wanted = resolve(release)
    const there = statSync(wanted, { throwIfNoEntry: false })
    if (there === undefined) throw missing(wanted, 'does not exist: give the release to install')
    const isLink = kindOf(this.path) === 'link'
    if (!isLink && !there.isFile())
      throw missing(wanted, `is not a file: only a file can replace the file ${this.path}`)
    this.#keep(this.#older)
    try {
      if (isLink) symlinkSync(wanted, this.#aside)
      else {
        copyFileSync(wanted, this.#aside)
        chmodSync(this.#aside, there.mode & 0o7777)
      }
      renameSync(this.#aside, this.path)
    } catch (error) {
      rmSync(this.#aside, { force: true })
      this.revert()
      throw unchangeable(this.path, error)
    }
  }

  /** Exchanges the installed release and the kept one. Throws ERR_FDB_NO_BINARY, ERR_FDB_RELEASE_LINK. */
  swap(): void {
    if (kindOf(this.#previous) === 'none') throw nothingKept(this.#previous)
    this.#keep(this.#aside)
    renameSync(this.#aside, this.path)
  }

  /** Removes the file that only {@link revert} needs. */
  commit(): void {
    rmSync(this.#older, { force: true })
  }

  /** Undoes the last {@link install}: restores the release at the path, and the one that was kept before. */
  revert(): void {
    renameSync(this.#previous, this.path)
    if (kindOf(this.#older) !== 'none') renameSync(this.#older, this.#previous)
  }

  /** Keeps the installed release as `PATH.previous`, and moves the release that was kept there to `aside`. Throws without an effect. */
  #keep(aside: string): void {
    const kept = kindOf(this.#previous) !== 'none'
    try {
      if (kept) renameSync(this.#previous, aside)
    } catch (error) {
      throw unchangeable(this.path, error)
    }
    try {
      if (kindOf(this.path) === 'link') symlinkSync(readlinkSync(this.path), this.#previous)
      else linkSync(this.path, this.#previous)
    } catch (error) {
      if (kept) renameSync(aside, this.#previous)
      throw unchangeable(this.path, error)
    }
  }
}

function kindOf(path: string): 'none' | 'link' | 'file' {
  const stat = lstatSync(path, { throwIfNoEntry: false })
  if (stat?.isSymbolicLink()) return 'link'
  return stat?.isFile() ? 'file' : 'none'
}

function missing(path: string, why: string): FdbError {
  return new FdbError('ERR_FDB_NO_BINARY', `${path} ${why}`, { details: { path } })
}

function nothingKept(path: string): FdbError {
  return missing(path, 'does not exist: no earlier release was kept that could be restored')
}
