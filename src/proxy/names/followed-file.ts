import { readFileSync, statSync } from 'node:fs'

const LOOK_AGAIN_MS = 1_000

/** The text of a small file that others replace; the file is looked at once a second at most. */
export class FollowedFile {
  readonly #path: string
  #lookAt = Number.NEGATIVE_INFINITY
  #seen = ''
  #text = ''

  constructor(path: string) {
    this.#path = path
  }

  /** Returns the text, '' where there is no file. The same string as before means that nothing has changed. */
  text(now: number): string {
    if (now < this.#lookAt) return this.#text
    this.#lookAt = now + LOOK_AGAIN_MS
    try {
      const { ino, size, mtimeNs } = statSync(this.#path, { bigint: true })
      const seen = `${ino} ${size} ${mtimeNs}`
      if (seen === this.#seen) return this.#text
      this.#text = readFileSync(this.#path, 'utf8')
      this.#seen = seen
    } catch {
      this.#text = ''
      this.#seen = ''
    }
    return this.#text
  }
}
