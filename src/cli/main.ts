#!/usr/bin/env node
import './early-signals.js'
import { run } from './program.js'

// Whoever read the output has seen enough: `fd-broker status | head -1`.
process.stdout.on('error', error => {
  if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error
  process.exit()
})

void run(process.argv.slice(2)).then(code => {
  // A command may have an exit code of its own to pass on.
  if (code !== 0 || process.exitCode === undefined) process.exitCode = code
})
