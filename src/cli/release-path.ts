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
import { resolve } from 'node:path'
import { FdbError } from '../errors.js'

/**
 * The path that a server is started from: the link of a release folder (`current`) or an executable. The path is replaced atomically, and its
 * former target is kept as `PATH.previous`.
 */
export class ReleasePath {
  readonly path: string
  readonly #previous: string
  readonly #aside: string
  /** Path of the target that was kept before the last {@link install}, until that install succeeds or fails. */
  readonly #older: string

  /** Throws ERR_FDB_NO_BINARY. */
  constructor(path: string) {
    this.path = resolve(path)
    this.#previous = `${this.path}.previous`
    this.#aside = `${this.path}.${process.pid}~`
    this.#older = `${this.#previous}.${process.pid}~`
    if (kindOf(this.path) === 'none')
      throw missing(
        this.path,
        'does not exist: give the symbolic link or the executable that the server is started from',
      )
  }

  /** Target of the kept link. Throws ERR_FDB_NO_BINARY if nothing was kept. */
  get keptTarget(): string {
    const kind = kindOf(this.#previous)
    if (kind === 'none') throw nothingKept(this.#previous)
    return kind === 'link' ? readlinkSync(this.#previous) : this.#previous
  }

  /** Installs `release`: a link is switched to it, a file gets its bytes and permissions. */
  install(release: string): void {
    const wanted = resolve(release)
    const there = statSync(wanted, { throwIfNoEntry: false })
    if (there === undefined) throw missing(wanted, 'does not exist: give the release to install')
    const isLink = kindOf(this.path) === 'link'
    if (!isLink && !there.isFile())
      throw missing(wanted, `is no file, and can replace only a link: ${this.path} is a file`)
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
      throw error
    }
  }

  /** Exchanges the installed target and the kept one. */
  swap(): void {
    if (kindOf(this.#previous) === 'none') throw nothingKept(this.#previous)
    this.#keep(this.#aside)
    renameSync(this.#aside, this.path)
  }

  /** Makes the last {@link install} final. */
  commit(): void {
    rmSync(this.#older, { force: true })
  }

  /** Reverts a failed {@link install}, including the target that was kept before it. */
  revert(): void {
    renameSync(this.#previous, this.path)
    if (kindOf(this.#older) !== 'none') renameSync(this.#older, this.#previous)
  }

  /** Keeps the present target and moves the target kept before to `aside`. If it throws, nothing has changed. */
  #keep(aside: string): void {
    const kept = kindOf(this.#previous) !== 'none'
    if (kept) renameSync(this.#previous, aside)
    try {
      if (kindOf(this.path) === 'link') symlinkSync(readlinkSync(this.path), this.#previous)
      else linkSync(this.path, this.#previous)
    } catch (error) {
      if (kept) renameSync(aside, this.#previous)
      throw error
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
