import { once } from 'node:events'
import type { Writable } from 'node:stream'
import type { StoredSchema } from '../state/records.js'
import type { StateLog } from '../state/state-log.js'
import { entryLine, type LineOptions } from './state-lines.js'

const BATCH = 64 * 1024

/** Writes many lines at the pace of whoever reads them. */
export class LineWriter {
  readonly #out: Writable
  #text: string[] = []
  #length = 0
  #gone = false

  constructor(out: Writable = process.stdout) {
    this.#out = out
    out.on('error', (error: NodeJS.ErrnoException) => {
      // `| head` has seen enough.
      if (error.code !== 'EPIPE') throw error
      this.#gone = true
    })
  }

  /** Nobody reads any more. */
  get gone(): boolean {
    return this.#gone
  }

  async write(line: unknown): Promise<void> {
    const text = `${typeof line === 'string' ? line : JSON.stringify(line)}\n`
    this.#text.push(text)
    this.#length += text.length
    if (this.#length >= BATCH) await this.flush()
  }

  async flush(): Promise<void> {
    const text = this.#text.join('')
    this.#text = []
    this.#length = 0
    if (this.#gone || text === '' || this.#out.write(text)) return
    await Promise.race([once(this.#out, 'drain'), once(this.#out, 'close')]).catch(() => {})
  }
}

/** In the order of their keys. */
export async function writeEntries(
  log: StateLog,
  schema: StoredSchema,
  options: LineOptions,
  out: LineWriter,
  prefix = '',
): Promise<void> {
  const section = log.rawSection(schema.name)
  const keys = [...section.keys()].filter(key => key.startsWith(prefix)).sort()
  for (const key of keys) {
    const entry = section.get(key)
    if (out.gone) return
    if (entry) await out.write(entryLine(schema, entry, options))
  }
}
