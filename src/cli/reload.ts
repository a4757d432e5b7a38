import type { Command } from 'commander'
import type { AskFlags } from './ask-service.js'
import { findsService } from './find-service.js'
import { jsonText } from './json-text.js'
import { durationOption } from './options.js'
import { reloaded } from './smart.js'

interface ReloadFlags extends AskFlags {
  json?: true
  service?: string
}

export function addReload(program: Command): void {
  findsService(
    program
      .command('reload')
      .description('have the running server read its configuration anew; exit code 0 when it counts'),
  )
    .addOption(durationOption('--timeout <duration>', 'how long to wait for the answer', '60s'))
    .option('--json', 'print the answer as JSON')
    .addHelpText(
      'after',
      `
Examples:
  $ fd-broker reload --control /run/edge/upgrade.sock
  $ fd-broker reload --service edge`,
    )
    .action(reload)
}

async function reload({ json, service = '', ...flags }: ReloadFlags): Promise<void> {
  const { pid, generation } = await reloaded(flags, service)
  if (json) process.stdout.write(jsonText({ ok: true, pid, generation }))
  else process.stdout.write(`generation ${generation} (pid ${pid}) has read its configuration\n`)
}
