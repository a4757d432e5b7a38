import type { Command } from 'commander'
import { findsService } from './find-service.js'
import { durationOption } from './options.js'

/** Options of all commands that ask a running service something. */
export function asking(command: Command): Command {
  return findsService(command)
    .option('--json', 'print the answer as JSON')
    .addOption(durationOption('--timeout <duration>', 'how long to wait for the answer', '60s'))
}
