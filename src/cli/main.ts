import type { ExitCode } from './exit-codes.js'
import { run } from './program.js'
import { onServing, type WithUsualFlags } from './serving.js'

/**
 * Runs one command line (without node and script) of this process. `serving` is called when a server that it has started serves. Never
 * rejects.
 */
export function main(
  args: readonly string[],
  serving: (withUsualFlags: WithUsualFlags) => void,
): Promise<ExitCode> {
  // Whoever read the output has seen enough: `fd-broker status | head -1`.
  process.stdout.on('error', error => {
    if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error
    process.exit()
  })
  onServing(serving)
  return run(args)
}
