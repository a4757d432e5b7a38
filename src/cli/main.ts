import { type ExitCode, writeStderr } from './output.js'
import { run } from './program.js'
import { type OnServerStage, onServerStage } from './signals.js'

/** Runs one command line (without node and script). `onStage` is called at each stage of a server. Never rejects. */
export function main(args: readonly string[], onStage: OnServerStage): Promise<ExitCode> {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    // The reader has closed the pipe, as `head -1` does.
    if (error.code === 'EPIPE') process.exit()
    writeStderr(`stdout cannot be written: ${error.message}`)
    process.exit(1)
  })
  onServerStage(onStage)
  return run(args)
}
