import type { Command } from 'commander'
import type { ReloadReply } from '../operator/service-commands.js'
import type { AnswerFlags } from './ask-service.js'
import { addServiceOptions } from './find-service.js'
import { durationOption } from './options.js'
import { jsonText, plain } from './output.js'
import { reload } from './upgrade-plan.js'

export function addReload(program: Command): void {
  addServiceOptions(
    program.command('reload').description('let the running server read its configuration again'),
  )
    .addOption(durationOption('--timeout <duration>', 'limit for the answer', '60s'))
    .option('--json', 'print the answer as JSON')
    .addHelpText(
      'after',
      `
Examples:
  $ fd-broker reload --control /run/edge/upgrade.sock
  $ fd-broker reload --service edge`,
    )
    .action(reloadService)
}

async function reloadService({ json, ...flags }: AnswerFlags): Promise<void> {
  const reply = await reload(flags)
  const { pid, generation } = reply
  if (json) process.stdout.write(jsonText({ ok: true, ...reply }))
  else if ('restart' in reply) process.stdout.write(`${lines(reply).join('\n')}\n`)
  else process.stdout.write(`generation ${generation} (pid ${pid}) has read its configuration\n`)
}

function lines({ now, next, restart }: ReloadReply): string[] {
  const all = [
    ['at once', now],
    ['with the next version (fd-broker upgrade)', next],
    ['when fd-broker run is restarted', restart],
  ] as const
  const changed = all.flatMap(([when, names]) =>
    names.length === 0 ? [] : [`${names.map(plain).join(', ')}: ${when}`],
  )
  return changed.length === 0 ? ['nothing has changed'] : changed
}
