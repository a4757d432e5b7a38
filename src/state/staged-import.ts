import { setImmediate as nextTurn } from 'node:timers/promises'
import { FdbError } from '../errors.js'
import type { LogCore } from './core.js'
import { ImportCheck } from './import.js'
import { mostBodyBytes, overLimit } from './limits.js'
import { runInSlices } from './slices.js'
import type { Writing } from './writing.js'

/** Turns of the event loop that an import waits for room among the changes that wait. */
const TURNS = 1000

/**
 * An import that comes in pieces. Each is checked when it comes and kept in memory; all of them become one change with
 * {@link commit}, or none when that is not called, or rejects.
 */
export class StagedImport {
  readonly #core: LogCore
  readonly #writing: Writing
  readonly #check: ImportCheck

  constructor(core: LogCore, writing: Writing, replace: boolean) {
    this.#core = core
    this.#writing = writing
    this.#check = new ImportCheck(core.store, core.limits, replace)
  }

  /** One piece at a time. Rejects with ERR_FDB_SCHEMA, ERR_FDB_STATE_VALUE, ERR_FDB_STATE_IMPORT, ERR_FDB_STATE_LIMIT. */
  async add(bytes: Buffer): Promise<void> {
    const { limits, sliceMs, closing } = this.#core
    const most = mostBodyBytes(limits)
    if (bytes.length > most) throw overLimit('a piece of an import', bytes.length, 'recordBytes', most)
    const all = this.#check.bytes + bytes.length
    if (all > limits.importBytes) throw overLimit('an import', all, 'importBytes', limits.importBytes)
    await runInSlices(this.#check.add(bytes), { sliceMs, signal: closing })
  }

  /** Rejects as a put does. */
  async commit(request: string): Promise<{ puts: number }> {
    const { requestBytes } = this.#core.limits
    const length = Buffer.byteLength(request)
    if (length > requestBytes)
      throw overLimit('the length of a request id', length, 'requestBytes', requestBytes)
    const { section, parts, puts, print } = this.#check
    for (let turn = 0; section && parts.length > 0; turn++) {
      try {
        await this.#writing.write({ sections: [section], parts, request, prints: [print] })
        break
      } catch (error) {
        const full = FdbError.is(error) && error.code === 'ERR_FDB_STATE_BACKPRESSURE'
        if (!full || turn >= TURNS) throw error
      }
      await nextTurn()
    }
    return { puts }
  }
}
