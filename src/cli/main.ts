import type { ExitCode } from './exit-codes.js'
import { run } from './program.js'
import { type OnTurn, onTurn } from './serving.js'

/** Runs one command line (without node and script) of this process. `turn` is told what becomes of a server that it is. Never rejects. */
export function main(args: readonly string[], turn: OnTurn): Promise<ExitCode> {
  // Whoever read the output has seen enough: `fd-broker status | head -1`.
  process.stdout.on('error', error => {
    if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error
    process.exit()
  })
  onTurn(turn)
  return run(args)
}
