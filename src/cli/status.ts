import type { Command } from 'commander'
import { OperatorClient } from '../operator/client.js'
import { findsService } from './find-service.js'
import { durationOption } from './options.js'
import { jsonText, sayOnStderr } from './output.js'
import { illnessOf, statusText, withAges } from './status-text.js'
import { answerOf } from './who-serves.js'

interface StatusFlags {
  control: string
  json?: true
  service?: string
  timeout: number
}

export function addStatus(program: Command): void {
  findsService(
    program
      .command('status')
      .description(
        'show the service: generation, listeners, connections, state, draining generations, last failure',
      ),
  )
    .option('--json', 'print the report as JSON')
    .addOption(durationOption('--timeout <duration>', 'how long to wait for the answer', '5s'))
    .addHelpText(
      'after',
      `
Exit code 3 also where no process serves, 1 also where a program under fd-broker run crashes again and again; stderr says which.

Examples:
  $ fd-broker status --control /run/shop/upgrade.sock
  $ fd-broker status --control /run/shop/upgrade.sock --json | jq '.listeners[].connections'`,
    )
    .action(status)
}

async function status({ control, json, service = '', timeout }: StatusFlags): Promise<void> {
  using client = await OperatorClient.connect(control, { timeout })
  const answer = withAges(answerOf(await client.status({ timeout }), { control, service }))
  process.stdout.write(json ? jsonText(answer) : statusText(answer))
  const ill = illnessOf(answer)
  if (ill === null) return
  sayOnStderr(ill.why)
  process.exitCode = ill.code
}
