import {
  type ProcessReply,
  RELOAD,
  type ReloadReply,
  readProcessReply,
  readReloadReply,
} from '../operator/service-commands.js'
import { type AnswerFlags, type AskFlags, commandService, RETRY_CODES } from './ask-service.js'
import type { Command } from './command.js'
import { addAskOptions } from './find-service.js'
import { plain, print } from './output.js'

export function addReload(program: Command): void {
  addAskOptions(program.command('reload').description('let the running server read its configuration again'))
    .examples('fd-broker reload --control /run/edge/upgrade.sock', 'fd-broker reload --service edge')
    .action(reloadService)
}

/** Makes the serving process read its configuration again. */
export async function reload(flags: AskFlags): Promise<ProcessReply | ReloadReply> {
  const reply = await commandService(flags, RETRY_CODES, RELOAD)
  return readReloadReply(reply) ?? readProcessReply(reply)
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
