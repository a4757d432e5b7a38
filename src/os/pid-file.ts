import { readFileSync, renameSync, rmSync, statSync, unlinkSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Logger } from '../base/logger.js'

/** A file with the pid of the serving process. It is replaced atomically; failures are logged and do not affect clients. */
export class PidFile {
  readonly #path: string
  readonly #logger: Logger
  /** Inode of the file that this process wrote last: the pid alone may be that of another container's process. */
  #written: bigint | undefined

  static at(path: string | null, logger: Logger): PidFile | null {
    return path === null ? null : new PidFile(path, logger)
  }

  private constructor(path: string, logger: Logger) {
    this.#path = resolve(path)
    this.#logger = logger
  }

  write(): void {
    this.#change(() => {
      const aside = `${this.#path}.${process.pid}~`
      // Removed first: in a folder that others can write to, it could be a link that they made.
      rmSync(aside, { force: true })
      writeFileSync(aside, `${process.pid}\n`, { mode: 0o644, flag: 'wx' })
      try {
        this.#written = inodeOf(aside)
        renameSync(aside, this.#path)
      } catch (error) {
        unlinkSync(aside)
        throw error
      }
    })
  }

  /** Removes the file at the end of the service. A file that another process has written is not removed. */
  remove(): void {
    this.#change(() => {
      if (this.#written !== undefined && inodeOf(this.#path) === this.#written) unlinkSync(this.#path)
    })
  }

  #change(act: () => void): void {
    try {
      act()
    } catch (error) {
      this.#logger.error(
        { err: error, pidFile: this.#path },
        'the pid file could not be changed and keeps its content',
      )
    }
  }
}

function inodeOf(path: string): bigint | undefined {
  return statSync(path, { bigint: true, throwIfNoEntry: false })?.ino
}

/** Reads the pid from a pid file; null if the file is missing or has none. */
export function readPidFile(path: string): number | null {
  try {
    const text = readFileSync(path, 'latin1').trim()
    return /^[1-9]\d{0,9}$/.test(text) ? Number(text) : null
  } catch {
    return null
  }
}
