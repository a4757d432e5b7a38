import { readFileSync } from 'node:fs'
import { Module } from 'node:module'
import { dirname } from 'node:path'
import { Script } from 'node:vm'
import { type CodeCache, isAsGood, type Kept } from './code-cache.js'

/**
 * A CommonJS file, compiled with V8's code cache of an earlier start. A cache that was made after running has the functions that were
 * called: with it a start takes half the time, as next to nothing is compiled.
 */
export class CachedProgram {
  readonly #file: string
  readonly #cache: CodeCache | null
  #script: Script | undefined
  /** The contents of the cache, if they were of use. */
  #has: Kept | undefined
  #bytes = 0

  /** `cache` null: nothing is kept. */
  constructor(file: string, cache: CodeCache | null) {
    this.#file = file
    this.#cache = cache
  }

  /** Runs the file; what it exports. */
  load(require: NodeJS.Require): unknown {
    const found = this.#cache?.read()
    // It is ASCII, which the build sees to.
    const source = Module.wrap(readFileSync(this.#file, 'latin1'))
    const script = new Script(source, { filename: this.#file, ...(found && { cachedData: found.data }) })
    if (found && !script.cachedDataRejected) {
      this.#has = found.kept
      this.#bytes = found.data.length
    }
    this.#script = script
    const module = { exports: {} }
    script.runInThisContext()(module.exports, require, module, this.#file, dirname(this.#file))
    return module.exports
  }

  /**
   * Writes what was compiled up to now, if there is nothing as good. It takes some ten milliseconds. Never throws. V8's flags must be those of
   * the start.
   */
  keep(when: Kept): void {
    if (this.#cache === null || this.#script === undefined) return
    if (this.#has !== undefined && isAsGood(this.#has, when)) return
    this.#has = when
    try {
      const data = this.#script.createCachedData()
      // V8 forgets what has not run for long: then there is less than at the start.
      if (data.length >= this.#bytes) this.#cache.write(data, when)
    } catch {
      // The next start takes longer, no more.
    }
  }
}
