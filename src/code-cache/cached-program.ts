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
  /** Stage of the cache that was read, if V8 accepted it, or that was written last. */
  #stage: CacheStage | undefined
  /** Size of the cache that was read, if V8 accepted it. */
  #bytes = 0

  /** If `cache` is null, the file is compiled without a cache. */
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
   * Writes the functions compiled so far, unless the cache already has them from this or a later stage. Takes about 10 ms. Never throws.
   * V8 must have the same flags as at the start.
   */
  save(when: CacheStage): void {
    if (this.#cache === null || this.#script === undefined) return
    if (this.#stage !== undefined && isAsGood(this.#stage, when)) return
    this.#stage = when
    try {
      const data = this.#script.createCachedData()
      // V8 discards functions that were not called for a while: a smaller cache would lack them.
      if (data.length >= this.#bytes) this.#cache.write(data, when)
    } catch {
      // The cache is lost: the next start takes longer.
    }
  }
}
