import type { Command } from 'commander'
import { statusAt } from '../operator/client.js'
import type { AnswerFlags } from './ask-service.js'
import { addServiceOptions } from './find-service.js'
import { durationOption } from './options.js'
import { print, writeStderr } from './output.js'
import { narrowAnswer } from './status-answer.js'
import { illnessOf, statusText, withAges } from './status-text.js'

export function addStatus(program: Command): void {
  addServiceOptions(
    program
      .command('status')
      .description('show generation, listeners, connections, state, draining generations, last failure'),
  )
    .option('--json', 'print the answer as JSON')
    .addOption(durationOption('--timeout <duration>', 'limit for the answer', '5s'))
    .addHelpText(
      'after',
      `
The exit code is 3 also if no process serves, and 1 also if a program under fd-broker run crashes repeatedly. The reason is on stderr.

Examples:
  $ fd-broker status --control /run/shop/upgrade.sock
  $ fd-broker status --control /run/shop/upgrade.sock --json | jq '.listeners[].connections'`,
    )
    .action(status)
}

async function status({ control, json, service = '', timeout }: AnswerFlags): Promise<void> {
  const answer = withAges(narrowAnswer(await statusAt(control, timeout), { control, service }))
  print(json, answer, () => statusText(answer))
  const ill = illnessOf(answer)
  if (ill === null) return
  writeStderr(ill.why)
  process.exitCode = ill.code
}
