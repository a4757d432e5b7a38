import { existsSync, linkSync, rmSync, unlinkSync } from 'node:fs'

/** A second name of a Unix socket's file: what removes the first, as most servers do when they close, does not end the service. */
export class KeptPath implements Disposable {
  readonly #path: string
  readonly #second: string

  /** Throws what the file system says: it may have no hard links, or not allow one to another user's socket. */
  constructor(path: string) {
    this.#path = path
    this.#second = `${path}.adopted-${process.pid}`
    // Of one of this number that was killed, as in a container that was started anew.
    rmSync(this.#second, { force: true })
    linkSync(path, this.#second)
  }

  /** Puts it back where it is not. Never throws. */
  restore(): void {
    if (existsSync(this.#path)) return
    try {
      linkSync(this.#second, this.#path)
    } catch {
      // Somebody else has put something there meanwhile; or the folder is gone.
    }
  }

  [Symbol.dispose](): void {
    try {
      unlinkSync(this.#second)
    } catch {
      // It is gone already.
    }
  }
}
