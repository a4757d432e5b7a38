import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { Module } from 'node:module'
import { dirname } from 'node:path'
import { Script } from 'node:vm'
import { CacheFile, type CacheKind, type CacheSubject } from '../base/cache-file.js'

/**
 * When a process writes the cache: after a command (`ended`), when a server serves (`served`), after it has taken over from a predecessor
 * (`joined`), or when it was replaced (`left`). At each later stage V8 has compiled more functions.
 */
export type CacheStage = 'ended' | 'served' | 'joined' | 'left'

const STAGES: readonly CacheStage[] = ['ended', 'served', 'joined', 'left']
/** For two releases of all commands, or two Node versions. */
export const MOST_FILES = 56

const CODE: CacheKind<CacheStage> = {
  mark: 'fd-broker code 2 ',
  stages: STAGES,
  extension: '.v8',
  most: MOST_FILES,
  secret: false,
}

/** A file of compiled code, which V8 runs without checks. V8 also compares its own version and flags, but does not verify the data. */
export class CodeCache extends CacheFile<CacheStage> {
  constructor(subject: CacheSubject) {
    super(subject, CODE)
  }
}

export function isAsGood(stage: CacheStage, when: CacheStage): boolean {
  return STAGES.indexOf(stage) >= STAGES.indexOf(when)
}

/**
 * A CommonJS file that is compiled with V8's code cache of an earlier start. A cache made after running contains the functions that were
 * called, which halves the time of a start.
 */
export class CachedProgram {
  readonly #file: string
  readonly #cache: CodeCache
  #script: Script | undefined
  /** Stage of the cache that was read, if V8 accepted it, or that was written last. */
  #stage: CacheStage | undefined
  /** Size of the cache that was read, if V8 accepted it. */
  #bytes = 0

  /** Cached code that V8 accepts as long as it has the flags of the start. */
  #flags: Buffer | undefined

  constructor(file: string, cache: CodeCache) {
    this.#file = file
    this.#cache = cache
  }

  /** Runs the file and returns its exports. */
  load(require: NodeJS.Require): unknown {
    this.#flags = new Script('1').createCachedData()
    const found = this.#cache.read()
    const script = new Script(wrapped(this.#file), {
      filename: this.#file,
      ...(found && { cachedData: found.data }),
    })
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
   * Writes the functions compiled so far, unless the cache already has them from this or a later stage, or V8 has other flags than at the
   * start: it would not accept them. Takes about 20 ms. Never throws.
   */
  save(when: CacheStage): void {
    if (this.#script === undefined) return
    if (this.#stage !== undefined && isAsGood(this.#stage, when)) return
    try {
      // Another text of the same length, which V8 has not compiled yet: V8 compares lengths, and the flags.
      if (new Script('2', { cachedData: this.#flags }).cachedDataRejected) return
      this.#stage = when
      const data = this.#script.createCachedData()
      // V8 discards functions that were not called for a while: a smaller cache would lack them.
      if (data.length >= this.#bytes) this.#cache.write(data, when)
    } catch {
      // The cache is lost: the next start takes longer.
    }
  }
}

/**
 * Returns the file as the function that Node makes of a CommonJS module. Joins bytes: V8 would copy joined strings into its heap, which then grows by
 * the size of the file. Reads to the place of the bytes, because a copy takes 1 ms of processor time. The build ensures that the file is ASCII.
 */
function wrapped(file: string): string {
  const [head = '', end = ''] = Module.wrap('\0').split('\0')
  const descriptor = openSync(file, 'r')
  try {
    const bytes = Buffer.allocUnsafeSlow(head.length + fstatSync(descriptor).size + end.length)
    let to = bytes.write(head, 'latin1')
    for (let read = -1; read !== 0; to += read)
      read = readSync(descriptor, bytes, to, bytes.length - end.length - to, null)
    to += bytes.write(end, to, 'latin1')
    return bytes.toString('latin1', 0, to)
  } finally {
    closeSync(descriptor)
  }
}
