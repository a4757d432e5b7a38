import { readFileSync, renameSync, unlinkSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'

/** A file that names the process that serves. Its readers find the one before or the one after, never a part. */
export class PidFile {
  readonly path: string

  constructor(path: string) {
    this.path = resolve(path)
  }

  /** Names this process. Throws what the file system says. */
  write(): void {
    const aside = `${this.path}.${process.pid}~`
    writeFileSync(aside, `${process.pid}\n`, { mode: 0o644 })
    try {
      renameSync(aside, this.path)
    } catch (error) {
      unlinkSync(aside)
      throw error
    }
  }

  /** The service has ended with this process. Another's number stays. */
  remove(): void {
    if (readPidFile(this.path) === process.pid) unlinkSync(this.path)
  }
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
