import type { Command } from 'commander'
import { FdbError } from '../errors.js'
import { OperatorClient } from '../operator/client.js'
import { ROLLBACK, readTold, rollbackBody, type Told } from '../operator/service-commands.js'
import type { ServiceStatus } from '../operator/status-report.js'
import { AGAIN, type AskFlags, asked } from './ask-service.js'
import { findsService } from './find-service.js'
import { Installed } from './installed.js'
import { durationOption } from './options.js'
import { jsonText } from './output.js'
import { serviceOf } from './who-serves.js'
import { upgradeTo } from './with-release.js'

interface RollbackFlags extends AskFlags {
  json?: true
  service?: string
  at?: string
}

const LOOK_MS = 50

export function addRollback(program: Command): void {
  findsService(
    program
      .command('rollback')
      .description('let the standby serve again, in probation; exit code 0 when it does'),
  )
    .addOption(durationOption('--timeout <duration>', 'until it must serve', '60s'))
    .option(
      '--at <path>',
      'restore the file that upgrade --binary has replaced; upgrade to it if there is no standby',
    )
    .option('--json', 'print the answer as JSON')
    .addHelpText(
      'after',
      `
After the probation nobody stands by: then give --at, or upgrade to the release before with fd-broker upgrade -- COMMAND.
Under fd-broker run the version before is started again, after the probation too.

Examples:
  $ fd-broker rollback --control /run/shop/upgrade.sock
  $ fd-broker rollback --service shop --json`,
    )
    .action(rollback)
}

async function rollback({ json, service = '', at, ...flags }: RollbackFlags): Promise<void> {
  const { pid, generation } = await rolledBack(flags, service, at === undefined ? null : new Installed(at))
  if (json) process.stdout.write(jsonText({ ok: true, pid, generation }))
  else process.stdout.write(`generation ${generation} (pid ${pid}) serves again\n`)
}

async function rolledBack(flags: AskFlags, service: string, installed: Installed | null): Promise<Told> {
  try {
    const { supervised, ...told } = await handedBack(flags, service, installed?.path ?? null)
    // A supervisor leads the link back; where it has given up an upgrade, the tool that asked for that puts back what it has installed.
    if (!supervised) installed?.swap()
    return told
  } catch (error) {
    if (installed === null || !FdbError.is(error) || error.code !== 'ERR_FDB_NO_STANDBY') throw error
  }
  const { control, timeout } = flags
  const swap = () => installed.swap()
  return await upgradeTo(
    { control, service },
    installed.kept,
    { path: installed.path, put: swap, back: swap },
    async release => {
      using client = await OperatorClient.connect(control, { timeout })
      return await client.upgrade({ service, timeout, release })
    },
  )
}

interface HandedBack extends Told {
  readonly supervised: boolean
}

async function handedBack(flags: AskFlags, service: string, at: string | null): Promise<HandedBack> {
  const until = performance.now() + flags.timeout
  const left = readTold(
    await asked(flags, AGAIN, (client, timeout) =>
      client.command(ROLLBACK, rollbackBody(at), { timeout, service }),
    ),
  )
  return await another(flags.control, service, left, until)
}

/** The process that serves in its place. */
async function another(control: string, service: string, left: Told, until: number): Promise<HandedBack> {
  for (;;) {
    const timeout = Math.max(1, Math.round(until - performance.now()))
    const now = await statusOf(control, service, timeout)
    // In different PID namespaces both may have the same number.
    const isAnother = now?.pid !== left.pid || now.generation !== left.generation
    if (now?.pid && isAnother && now.role === 'serving')
      return {
        pid: now.pid,
        generation: now.generation ?? 0,
        supervised: now.hosting === 'supervisor',
      }
    if (performance.now() + LOOK_MS >= until) {
      throw new FdbError(
        'ERR_FDB_DEADLINE',
        `generation ${left.generation} (pid ${left.pid}) leaves, and nobody was seen to serve in its place: status shows who does`,
      )
    }
    await new Promise(resolve => setTimeout(resolve, LOOK_MS))
  }
}

/** Null: no process can be asked now. */
async function statusOf(control: string, service: string, timeout: number): Promise<ServiceStatus | null> {
  try {
    using client = await OperatorClient.connect(control, { timeout })
    return serviceOf(await client.status({ timeout }), service) ?? null
  } catch {
    return null
  }
}
