import type { Command } from 'commander'
import type { ReloadReply } from '../operator/service-commands.js'
import type { AnswerFlags } from './ask-service.js'
import { addAskOptions } from './find-service.js'
import { plain, print } from './output.js'
import { reload } from './upgrade-plan.js'

export function addReload(program: Command): void {
  addAskOptions(program.command('reload').description('let the running server read its configuration again'))
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
  const text =
    'restart' in reply
      ? lines(reply).join('\n')
      : `generation ${generation} (pid ${pid}) has read its configuration`
  print(json, { ok: true, ...reply }, `${text}\n`)
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
