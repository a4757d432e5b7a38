import { type ExitCode, sayOnStderr } from './output.js'
import { run } from './program.js'
import { type OnTurn, onTurn } from './signals.js'

/** Runs one command line (without node and script) of this process. `turn` is told what becomes of a server that it is. Never rejects. */
export function main(args: readonly string[], turn: OnTurn): Promise<ExitCode> {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    // The reader of the output has seen enough: `fd-broker status | head -1`.
    if (error.code === 'EPIPE') process.exit()
    sayOnStderr(`stdout cannot be written: ${error.message}`)
    process.exit(1)
  })
  onTurn(turn)
  return run(args)
}
