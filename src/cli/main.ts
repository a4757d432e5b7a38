import { type ExitCode, sayOnStderr } from './output.js'
import { run } from './program.js'
import { type OnTurn, onTurn } from './signals.js'

/** Runs one command line (without node and script). `turn` is called at each stage of a server. Never rejects. */
export function main(args: readonly string[], turn: OnTurn): Promise<ExitCode> {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    // The reader has closed the pipe, as `head -1` does.
    if (error.code === 'EPIPE') process.exit()
    sayOnStderr(`stdout cannot be written: ${error.message}`)
    process.exit(1)
  })
  onTurn(turn)
  return run(args)
}
