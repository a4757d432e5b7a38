import { statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { thisFile } from '../base/lazy.js'
import { CachedProgram, type CacheStage, CodeCache } from './code-cache.js'

/** Delay before a server saves the cache. After it the server has compiled the code of its start, and few clients wait. */
export const SETTLED_MS = 1_500

/** Programs that run JavaScript as Node does, without all of its functions. */
const { bun, deno } = process.versions

interface Loaded<Exports> {
  readonly exports: Exports
  /** See {@link CachedProgram.save}. */
  readonly save: (when: CacheStage) => void
}

/**
 * Loads a file of `dist` with a cache of this name. Calls `plain` instead if `name` is null, and if there is no such file: a bundler has followed
 * the `require()` in `plain`.
 */
export function loadCached<Exports>(
  fileName: string,
  name: string | null,
  plain: () => Exports,
): Loaded<Exports> {
  const file = join(dirname(thisFile()), fileName)
  const cache = name === null || bun !== undefined || deno !== undefined ? null : cacheFor(file, name)
  if (cache === null) return { exports: plain(), save: () => {} }
  const cached = new CachedProgram(file, cache)
  const exports = cached.load(createRequire(file)) as Exports
  return { exports, save: when => cached.save(when) }
}

function cacheFor(file: string, name: string): CodeCache | null {
  try {
    const { size, mtimeMs, ino, uid, mode } = statSync(file)
    const facts = [
      // V8 restores the path of the cached code, by which the program finds its other files.
      file,
      size,
      mtimeMs,
      ino,
      process.version,
      process.arch,
      process.execArgv,
      process.env.NODE_OPTIONS ?? '',
    ]
    return new CodeCache({
      name,
      facts: JSON.stringify(facts),
      package: dirname(dirname(file)),
      owner: { uid, mode },
    })
  } catch {
    return null
  }
}
