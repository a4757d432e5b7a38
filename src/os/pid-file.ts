import { existsSync, readFileSync, renameSync, rmSync, statSync, unlinkSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'

/** Interval at which a removed file is noticed, and a failed change tried again. */
const PID_FILE_CHECK_MS = 5_000

const REMEDIES: Readonly<Record<string, string>> = {
  ENOENT: 'create its folder',
  ENOTDIR: 'create its folder',
  EACCES: 'let the user of this process write to its folder',
  EPERM: 'let the user of this process write to its folder',
  ENOSPC: 'free space on its disk',
  EDQUOT: 'free space on its disk',
  EROFS: 'give a path on a disk that can be written to',
}

/** A file with the pid of the serving process, which is replaced atomically. Failures are logged, once until a change succeeds, and retried. */
export class PidFile {
  readonly #path: string
  readonly #logger: Logger
  /** The file that this process wrote last. The pid in it is no proof: a process of another container may have the same one. */
  #written: FileIdentity | undefined
  #timer: NodeJS.Timeout | undefined
  /** Whether the last change failed: the file may name a process that has ended. */
  #failed = false

  static at(path: string | null, logger: Logger): PidFile | null {
    return path === null ? null : new PidFile(path, logger)
  }

  private constructor(path: string, logger: Logger) {
    this.#path = resolve(path)
    this.#logger = logger
  }

  /** Writes the file, and again if that fails or a cleaner removes it, until {@link leave} or {@link remove}. */
  write(): void {
    this.#timer ??= setInterval(() => this.#restore(), PID_FILE_CHECK_MS).unref()
    this.#change(() => {
      const aside = `${this.#path}.${process.pid}~`
      // Removed first: in a folder that others can write to, another user may have created a link of this name.
      rmSync(aside, { force: true })
      try {
        writeFileSync(aside, `${process.pid}\n`, { mode: 0o644, flag: 'wx' })
        this.#written = identityOf(aside)
        renameSync(aside, this.#path)
      } catch (error) {
        if (existsSync(aside)) unlinkSync(aside)
        throw error
      }
    })
  }

  #restore(): void {
    const failed = this.#failed
    if (!failed) {
      if (mayExist(this.#path)) return
      this.#logger.warn({ pidFile: this.#path }, 'the pid file was removed: this process writes it again')
    }
    this.write()
    if (failed && !this.#failed) this.#logger.info({ pidFile: this.#path }, 'the pid file names this process')
  }

  /** Leaves the file to the process that serves next. */
  leave(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** Removes the file, unless another process has written it. */
  remove(): void {
    this.leave()
    this.#change(() => {
      const now = identityOf(this.#path)
      const { ino, bornAt } = this.#written ?? {}
      const isOwn = now !== undefined && now.ino === ino && now.bornAt === bornAt
      // Another process may have written into the file.
      if (isOwn && readPidFile(this.#path) === process.pid) unlinkSync(this.#path)
    })
  }

  #change(act: () => void): void {
    try {
      act()
      this.#failed = false
    } catch (error) {
      if (!this.#failed) {
        const { code = String(error) } = error as NodeJS.ErrnoException
        this.#logger.error(
          { err: error, pidFile: this.#path },
          `the pid file could not be changed and keeps its content (${code}): ${REMEDIES[code] ?? 'mend its folder'}`,
        )
      }
      this.#failed = true
    }
  }
}

/** The inode alone is not enough: a later file may get that of one that was replaced. */
interface FileIdentity {
  readonly ino: bigint
  readonly bornAt: bigint
}

/** Returns undefined if no file exists. */
function identityOf(path: string): FileIdentity | undefined {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false })
  // Some file systems do not know when a file was created (statx(2)), and touch(1) changes the other time.
  return stat && { ino: stat.ino, bornAt: stat.birthtimeNs || stat.mtimeNs }
}

/** True also if this process cannot see it, as one that has dropped its user may not. */
function mayExist(path: string): boolean {
  try {
    return identityOf(path) !== undefined
  } catch {
    return true
  }
}

/** Returns the pid in a pid file; null if the file is missing or contains none. Throws ERR_FDB_DENIED if this user may not read it. */
export function readPidFile(path: string): number | null {
  try {
    const text = readFileSync(path, 'latin1').trim()
    return /^[1-9]\d{0,9}$/.test(text) ? Number(text) : null
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EACCES') return null
    const why = `the pid file ${path} cannot be read (EACCES): run as its owner, or give --control`
    throw new FdbError('ERR_FDB_DENIED', why, { cause, details: { path } })
  }
}
