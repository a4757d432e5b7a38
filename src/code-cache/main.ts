#!/usr/bin/env node
import '../cli/early-signals.js'
import { statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type * as program from '../cli/program.js'
import { CachedProgram, CodeCache } from './code-cache.js'
import { lowerPriority, lowerThreads, threadsOfV8 } from './low-priority.js'

/** Delay before a server saves the cache. After it the server has compiled the code of its start, and few clients wait. */
const SETTLED_MS = 1_500

const here = import.meta.dirname
const file = join(here, 'program.cjs')
const command = /^[a-z]+(?:-[a-z]+)*$/.exec(process.argv[2] ?? '')?.[0]
const threads = threadsOfV8()
const cached = new CachedProgram(file, command === undefined ? null : cacheFor(command))
const { main } = cached.load(createRequire(file)) as typeof program

void main(process.argv.slice(2), (stage, withUsualFlags) => {
  // From now on the predecessor's clients connect to this process. Until now the main thread needed V8's threads for its start.
  if (stage === 'joined') lowerThreads(threads)
  const save = () => withUsualFlags(() => cached.save(stage))
  if (stage !== 'left') setTimeout(save, SETTLED_MS).unref()
  else {
    // No client waits for this process, and its successor needs the processor.
    lowerPriority()
    save()
  }
}).then(code => {
  // Keeps an exit code that the command has set itself.
  if (code !== 0 || process.exitCode === undefined) process.exitCode = code
  if (code === 0) cached.save('ended')
})

/** Each command has its own cache, because commands use different parts of the program. */
function cacheFor(command: string): CodeCache | null {
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
      name: command,
      facts: JSON.stringify(facts),
      package: dirname(here),
      owner: { uid, mode },
    })
  } catch {
    return null
  }
}
