import { mkdirSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { Command } from 'commander'

/** Rotated files that are kept besides the current one. */
const KEPT = 5

interface WriteFlags {
  readonly file: string
  readonly size: string
}

/** Adds the command that writes the output of a program started by `fd-broker start`. Its process ends when the last writer of that output has ended. */
export function addWriteLog(program: Command): void {
  program
    .command('write-log', { hidden: true })
    .description('write standard input to a file, and rotate the file by its size')
    .requiredOption('--file <path>', 'the log')
    .requiredOption('--size <size>', 'a log of this size is rotated')
    .action(writeLog)
}

async function writeLog({ file, size }: WriteFlags): Promise<void> {
  const { createStream } = await import('rotating-file-stream')
  // A signal to the whole process group must not end this process before the output of the program ends.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {})
  const path = dirname(file)
  mkdirSync(path, { recursive: true, mode: 0o700 })
  await pipeline(process.stdin, createStream(basename(file), { path, size, rotate: KEPT, mode: 0o600 }))
}
