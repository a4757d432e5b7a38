import { readFileSync } from 'node:fs'
import { Module } from 'node:module'
import { dirname } from 'node:path'
import { Script } from 'node:vm'
import { type CacheStage, type CodeCache, isAsGood } from './code-cache.js'

/**
 * A CommonJS file that is compiled with V8's code cache of an earlier start. A cache made after running contains the functions that were
 * called, which halves the time of a start.
 */
export class CachedProgram {
  readonly #file: string
  readonly #cache: CodeCache | null
  #script: Script | undefined
  /** Stage of the cache in use, if V8 accepted it. */
  #stage: CacheStage | undefined
  #bytes = 0

  /** With `cache` null nothing is cached. */
  constructor(file: string, cache: CodeCache | null) {
    this.#file = file
    this.#cache = cache
  }

  /** Runs the file and returns its exports. */
  load(require: NodeJS.Require): unknown {
    const found = this.#cache?.read()
    // The build ensures that the file is ASCII.
    const source = Module.wrap(readFileSync(this.#file, 'latin1'))
    const script = new Script(source, { filename: this.#file, ...(found && { cachedData: found.data }) })
    if (found && !script.cachedDataRejected) {
      this.#stage = found.stage
      this.#bytes = found.data.length
    }
    this.#script = script
    const module = { exports: {} }
    script.runInThisContext()(module.exports, require, module, this.#file, dirname(this.#file))
    return module.exports
  }

  /**
   * Writes the functions compiled so far, unless a cache of the same or a later stage exists. Takes about 10 ms. Never throws. V8's flags
   * must be those of the start.
   */
  save(when: CacheStage): void {
    if (this.#cache === null || this.#script === undefined) return
    if (this.#stage !== undefined && isAsGood(this.#stage, when)) return
    this.#stage = when
    try {
      const data = this.#script.createCachedData()
      // V8 discards unused functions: a smaller cache than the one read is not written.
      if (data.length >= this.#bytes) this.#cache.write(data, when)
    } catch {
      // Only the next start takes longer.
    }
  }
}
