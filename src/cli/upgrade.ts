import { FdbError } from '../errors.js'
import { statusAt } from '../operator/client.js'
import { UPGRADE_SELF } from '../operator/service-commands.js'
import { DAEMON_ITSELF } from '../operator/service-name.js'
import { isDaemon } from '../operator/status-report.js'
import type { SupervisorStatus } from '../run/status.js'
import { type AnswerFlags, type AskFlags, commandService, pollUntil } from './ask-service.js'
import type { Command } from './command.js'
import { addServiceOptions } from './find-service.js'
import { durationOption } from './options.js'
import { print } from './output.js'
import { executePlan, planFor } from './upgrade-plan.js'
import { UpgradeRun } from './upgrade-run.js'

interface UpgradeFlags extends AnswerFlags {
  killStuck?: true
  binary?: string
  without?: readonly string[]
  at?: string
  smart?: true
  self?: true
  timeline?: string
}

export function addUpgrade(program: Command): void {
  addServiceOptions(program.command('upgrade'))
    .description('start the next version of the running server, and wait until it serves')
    .argument('[command...]', 'command of the next version, after --; default: the current one')
    .addOption(durationOption('--timeout <duration>', 'limit for the answer', '60s'))
    .option(
      '--kill-stuck',
      'first kill processes that block the upgrade; listeners and state are kept until the next version serves, at most for --timeout',
    )
    .option(
      '--without <address>',
      'under fd-broker/auto: an address that the next version gives up; repeatable. Without it the next version serves only when it listens on all addresses of the running one',
      (address: string, all: readonly string[] = []) => [...all, address],
    )
    .option('--binary <new>', 'release to install at --at before the upgrade; undone if the upgrade fails')
    .option('--at <path>', 'the server’s link to a release folder, or its executable')
    .option('--smart', 'reload, upgrade or do nothing, depending on what has changed (fd-broker proxy)')
    .option('--self', 'replace fd-broker run, or the daemon, with the installed release')
    .option(
      '--timeline <file>',
      'write a page (.html) or picture (.svg) that shows the phases of each process and its connections; waits until the older versions have none',
    )
    .json()
    .notes(`The next version runs as the server's user, in its working folder and with its environment. INT (Ctrl-C), TERM and HUP
cancel the upgrade: before the commit the next version is ended, and the running one keeps serving. The answer names the version that
serves. A second signal, or kill -9, ends only this command.`)
    .examples(
      'fd-broker upgrade --control /run/shop/upgrade.sock',
      'fd-broker upgrade --control /run/shop/upgrade.sock --timeout 2m',
      'fd-broker upgrade --service edge --smart',
      'fd-broker upgrade --service shop --binary /srv/shop/releases/8 --at /srv/shop/current',
      'fd-broker upgrade --control /run/shop/upgrade.sock -- node /srv/shop-2/server.mjs --verbose',
    )
    .action(upgrade)
}

async function upgrade(argv: string[], flags: UpgradeFlags, command: Command): Promise<void> {
  const {
    control,
    json,
    timeout,
    service: serviceOption = '',
    killStuck,
    binary,
    at,
    smart,
    self,
    timeline,
  } = flags
  const { without = [] } = flags
  const [word = ''] = argv
  if (argv.length === 1 && !word.includes('/') && !process.argv.includes('--'))
    command.error(
      `error: name the service by --service ${word}, or give the command of the next version after --: -- ${word}`,
    )
  const daemon = self === true && isDaemon(await statusAt(control, timeout))
  const service = daemon ? DAEMON_ITSELF : serviceOption
  const ask: AskFlags = { control, timeout, service }
  if (self && !daemon) {
    if (argv.length > 0 || binary !== undefined || smart || without.length > 0 || timeline !== undefined)
      command.error(
        'error: --self cannot be combined with a command, --binary, --without, --smart or --timeline',
      )
    return await upgradeSelf(ask, json)
  }
  if ((binary === undefined) !== (at === undefined)) command.error('error: give --binary and --at together')
  if (smart && (argv.length > 0 || binary !== undefined || killStuck))
    command.error('error: --smart cannot be combined with a command, --binary or --kill-stuck')
  const plan = smart ? await planFor(ask) : null
  if (plan !== null && plan.done !== 'upgrade') {
    await executePlan(plan, ask, json)
    return
  }
  using run = new UpgradeRun({
    ...ask,
    service,
    argv,
    without,
    binary,
    at,
    json,
    killStuck: killStuck ?? false,
    plan,
    timeline,
  })
  await run.toEnd()
}

/** Replaces a supervisor by the installed release, and waits until the new one answers. */
async function upgradeSelf(flags: AskFlags, json: boolean | undefined): Promise<void> {
  const { control, timeout } = flags
  const begun = performance.now()
  const before = await supervisorAt(control, timeout)
  try {
    await commandService(flags, new Set(), UPGRADE_SELF)
  } catch (error) {
    if (!FdbError.is(error)) throw error
    if (error.code === 'ERR_FDB_COMMAND_UNKNOWN')
      throw new FdbError(
        error.code,
        'this service is neither fd-broker run nor a daemon, and only these replace themselves: omit --self',
        { cause: error },
      )
    // The supervisor's next image does not inherit this connection.
    if (error.code !== 'ERR_FDB_CHANNEL_CLOSED') throw error
  }
  const after = await pollUntil(begun + timeout, async left => {
    const now = await supervisorAt(control, left).catch(() => null)
    return now && now.replaced > (before?.replaced ?? 0) ? now : null
  })
  if (after === null)
    throw new FdbError(
      'ERR_FDB_DEADLINE',
      `the supervisor at ${control} closed the connection, but the installed release that replaces it does not answer: see the log of the supervisor`,
    )
  const { pid } = after
  const ms = Math.round(performance.now() - begun)
  print(json, { ok: true, pid, ms }, `supervisor ${pid} runs the installed release, after ${ms} ms\n`)
}

/** Resolves with undefined if the process is not a supervisor. Such a process refuses the command itself. */
async function supervisorAt(
  control: string,
  timeout: number,
): Promise<SupervisorStatus['supervisor'] | undefined> {
  return ((await statusAt(control, timeout)) as Partial<SupervisorStatus>).supervisor
}
