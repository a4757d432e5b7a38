import type { OwnedFd } from '../../kernel/index.js'

/** A duplicate of a listener's socket, kept for a server that has stopped and may start again: by then no descriptor may be free. */
export class SpareFd {
  #fd: OwnedFd | null = null

  /** Call this as soon as the server has closed its own descriptor, whose number is free then. Borrows `fd`. */
  keep(fd: OwnedFd): void {
    try {
      if (!fd.closed) this.#fd ??= fd.dup()
    } catch {
      // Another thread has taken the last number. One may be free when the server starts.
    }
  }

  /** Returns the spare duplicate, or a new one. The caller owns it. Throws EMFILE. */
  take(fd: OwnedFd): OwnedFd {
    const spare = this.#fd
    this.#fd = null
    return spare ?? fd.dup()
  }

  close(): void {
    this.#fd?.close()
    this.#fd = null
  }
}
