import { type Stats, watch } from 'node:fs'
import { open, readdir, readFile, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { checkOptions, path } from '../checks/options.js'
import { map, optional, required, type ShapeOf } from '../checks/shape.js'
import { milliseconds } from '../checks/values.js'
import { MOST_VALUE_BYTES, type Source, type SourceBatch, type SourceEntry } from './source.js'

/** A tool writes several files one after the other. */
const SETTLED_MS = 50
/** A folder that changes again and again while it is read is used as it was read then. */
const MOST_READINGS = 5

export interface FolderSourceOptions {
  folder: string
  /** Milliseconds after which the folder is read again without a notification, which network file systems do not give; default 10,000. */
  interval?: number | undefined
}

const OPTIONS = map({
  folder: required(path()),
  interval: optional(milliseconds(100), 10_000),
} satisfies ShapeOf<FolderSourceOptions>)

/** The files of a folder: the key is a file's name, the value its contents. Files whose name begins with a dot are left out, so that a tool can write such a file and rename it. Works with the volumes of a Kubernetes ConfigMap. */
export class FolderSource implements Source {
  readonly id: string
  readonly #folder: string
  readonly #interval: number

  /** Throws ERR_FDB_OPTION. */
  constructor(options: FolderSourceOptions) {
    const { folder, interval } = checkOptions('new FolderSource()', options, OPTIONS)
    this.id = `folder ${folder}`
    // The program may change its own folder before the source is read.
    this.#folder = resolve(folder)
    this.#interval = interval
  }

  async *read(_since: string | null, signal: AbortSignal): AsyncGenerator<SourceBatch, void> {
    const changed = new Changes(this.#folder, signal)
    /** The facts of the last batch. */
    let before = ''
    try {
      while (!signal.aborted) {
        changed.reset()
        let facts = await this.#facts()
        if (JSON.stringify(facts) !== before) {
          let all = null
          for (let n = 1; all === null; n++) {
            if (signal.aborted) return
            before = JSON.stringify(facts)
            all = await this.#contents(facts)
            facts = await this.#facts()
            if (JSON.stringify(facts) !== before && n < MOST_READINGS) all = null
          }
          yield { all, revision: null }
        }
        await changed.within(this.#interval)
      }
    } finally {
      changed.close()
    }
  }

  /** Returns null if a file was removed meanwhile. */
  async #contents(facts: readonly [name: string, ...facts: number[]][]): Promise<SourceEntry[] | null> {
    const all: SourceEntry[] = []
    try {
      for (const [key, , size = 0] of facts) {
        const path = join(this.#folder, key)
        all.push({ key, value: await (size > MOST_VALUE_BYTES ? tooLarge(path) : readFile(path)) })
      }
      return all
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
      throw error
    }
  }

  /** Resolves with null if the file was removed meanwhile, which the next turn sees. */
  async #stat(name: string): Promise<Stats | null> {
    try {
      return await stat(join(this.#folder, name))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
      throw error
    }
  }

  /** Facts that change with a file's contents. */
  async #facts(): Promise<[name: string, ...facts: number[]][]> {
    const found: [string, ...number[]][] = []
    for (const name of (await readdir(this.#folder)).sort()) {
      if (name.startsWith('.')) continue
      const file = await this.#stat(name)
      if (file?.isFile()) found.push([name, file.ino, file.size, file.mtimeMs, file.ctimeMs])
    }
    return found
  }
}

/** Returns as many bytes of a file as tell that its value is too large. */
async function tooLarge(path: string): Promise<Buffer> {
  await using file = await open(path)
  const bytes = Buffer.alloc(MOST_VALUE_BYTES + 1)
  const { bytesRead } = await file.read(bytes, 0, bytes.length, 0)
  return bytes.subarray(0, bytesRead)
}

/** Notifications of a folder. */
class Changes {
  readonly #signal: AbortSignal
  readonly #watcher: ReturnType<typeof watch>
  readonly #end = () => this.#seen.abort()
  #seen = new AbortController()

  constructor(folder: string, signal: AbortSignal) {
    this.#signal = signal
    this.#watcher = watch(folder, { persistent: false }, this.#end)
    signal.addEventListener('abort', this.#end)
    // Without notifications the interval is left.
    this.#watcher.on('error', () => {})
  }

  reset(): void {
    this.#seen = new AbortController()
  }

  /** Resolves a moment after the first change since {@link reset}, at the latest after `ms`. */
  async within(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#seen.signal, ref: false }).catch(() => {})
    if (!this.#signal.aborted) await sleep(SETTLED_MS, undefined, { ref: false })
  }

  close(): void {
    this.#signal.removeEventListener('abort', this.#end)
    this.#watcher.close()
  }
}
