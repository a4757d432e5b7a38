import { readFileSync, renameSync, rmSync, statSync, unlinkSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Logger } from '../base/logger.js'

/** A file that names the process that serves. Replaced atomically; a failure is logged, and harms no client. */
export class PidFile {
  readonly #path: string
  readonly #logger: Logger
  /** The inode of the file that this process has written last: a process of another container may have the same pid. */
  #written: bigint | undefined

  /** `path` null: none is wanted. */
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
      // Made anew: in a folder that others may write to there could be a link of theirs.
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

  /** This process serves no more, and no other in its place. A file that another process has written stays. */
  remove(): void {
    this.#change(() => {
      if (this.#written !== undefined && inodeOf(this.#path) === this.#written) unlinkSync(this.#path)
    })
  }

  #change(act: () => void): void {
    try {
      act()
    } catch (error) {
      this.#logger.error({ err: error, pidFile: this.#path }, 'the pid file could not be changed')
    }
  }
}

function inodeOf(path: string): bigint | undefined {
  return statSync(path, { bigint: true, throwIfNoEntry: false })?.ino
}

/** Null: there is none, or it names no process. */
export function readPidFile(path: string): number | null {
  try {
    const text = readFileSync(path, 'latin1').trim()
    return /^[1-9]\d{0,9}$/.test(text) ? Number(text) : null
  } catch {
    return null
  }
}
