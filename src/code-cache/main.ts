#!/usr/bin/env node
import '../cli/early-signals.js'
import type * as program from '../cli/program.js'
import { loadCached, SETTLED_MS } from './load-cached.js'
import { lowerPriority, lowerThreads, threadsOfV8 } from './low-priority.js'

// Each command has its own cache, because commands use different parts of the program.
const command = /^[a-z]+(?:-[a-z]+)*$/.exec(process.argv[2] ?? '')?.[0] ?? null
const threads = threadsOfV8()
const { exports, save: saveAt } = loadCached<typeof program>('program.cjs', command, () =>
  require('./program.cjs'),
)
let saveAtEnd = () => saveAt('ended')

void exports
  .main(process.argv.slice(2), (stage, withUsualFlags) => {
    // From now on the predecessor's clients connect to this process. Until now the main thread needed V8's threads for its start.
    if (stage === 'joined') lowerThreads(threads)
    const save = () => withUsualFlags(() => saveAt(stage))
    if (stage !== 'left') setTimeout(save, SETTLED_MS).unref()
    else {
      saveAtEnd = () => {
        // No client waits for this process, and its successor needs the processor.
        lowerPriority()
        save()
      }
    }
  })
  .then(code => {
    // Keeps an exit code that the command has set itself.
    if (code !== 0 || process.exitCode === undefined) process.exitCode = code
    if (code === 0) saveAtEnd()
  })
