import type { Command } from './command.js'

interface WriteFlags {
  readonly file: string
  readonly size: string
}

/** Adds the command that writes the output of a program started by `fd-broker start`. The command ends when the last writer of that output has ended. */
export function addWriteLog(program: Command): void {
  program
    .command('write-log', { hidden: true })
    .description('write standard input to a file, and rotate the file by its size')
    .requiredOption('--file <path>', 'the log')
    .requiredOption('--size <size>', 'a log of this size is rotated')
    .action(writeLog)
}

async function writeLog({ file, size }: WriteFlags): Promise<void> {
  const { RotatedLog } = await import('./rotated-log.js')
  // A signal to the whole process group must not end this process before the output of the program ends.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {})
  const log = new RotatedLog(file, size)
  try {
    for await (const output of process.stdin) await log.write(output as Buffer)
  } finally {
    await log.close()
  }
}
