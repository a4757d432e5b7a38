import { readFileSync, renameSync, statSync, unlinkSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'

/** A file that names the process that serves. Its readers find the one before or the one after, never a part. */
export class PidFile {
  readonly path: string
  /** Of the file that this process has written last: one of another container may name the same number. */
  #written: bigint | undefined

  constructor(path: string) {
    this.path = resolve(path)
  }

  /** Names this process. Throws what the file system says. */
  write(): void {
    const aside = `${this.path}.${process.pid}~`
    writeFileSync(aside, `${process.pid}\n`, { mode: 0o644 })
    try {
      this.#written = inodeOf(aside)
      renameSync(aside, this.path)
    } catch (error) {
      unlinkSync(aside)
      throw error
    }
  }

  /** This process serves no more, and none in its place. What another has written stays. */
  remove(): void {
    if (this.#written !== undefined && inodeOf(this.path) === this.#written) unlinkSync(this.path)
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
