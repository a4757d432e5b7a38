import { FdbError } from '../errors.js'
import { OperatorClient, statusAt } from '../operator/client.js'
import { type ProcessReply, ROLLBACK, readProcessReply, rollbackBody } from '../operator/service-commands.js'
import {
  isDaemon,
  type ServiceStatus,
  STATUS_ANSWER_MS,
  type StatusAnswer,
} from '../operator/status-report.js'
import { type AnswerFlags, type AskFlags, commandService, pollUntil, RETRY_CODES } from './ask-service.js'
import type { Command } from './command.js'
import { addAskOptions } from './find-service.js'
import { plain, print } from './output.js'
import { ReleasePath, upgradeTo } from './release-path.js'
import { askStatus } from './status-answer.js'

interface RollbackFlags extends AnswerFlags {
  at?: string
}

export function addRollback(program: Command): void {
  addAskOptions(program.command('rollback').description('in probation: let the previous version serve again'))
    .option('--at <path>', 'restore the release that upgrade --binary has replaced at this path')
    .notes(`After the probation no process stands by: give --at, or start the previous release by fd-broker upgrade -- COMMAND.
Under fd-broker run the previous version is started again, also after the probation.`)
    .examples(
      'fd-broker rollback --control /run/shop/upgrade.sock',
      'fd-broker rollback --service shop --json',
    )
    .action(rollback)
}

async function rollback({ json, at, ...flags }: RollbackFlags): Promise<void> {
  const { pid, generation, isNew } = await restorePrevious(
    flags,
    at === undefined ? null : new ReleasePath(at),
  )
  const how = isNew ? 'serves: the previous version, started again' : 'serves again'
  print(json, { ok: true, pid, generation }, `generation ${generation} (pid ${pid}) ${how}\n`)
}

interface RolledBack extends ProcessReply {
  /** Whether the process that serves now was started for the rollback. */
  readonly isNew: boolean
}

/** Lets the previous version serve, and restores its release at `installed`. After the probation this is an upgrade. */
async function restorePrevious(flags: AskFlags, installed: ReleasePath | null): Promise<RolledBack> {
  try {
    const { supervised, ...reply } = await handBack(flags, installed?.path ?? null)
    // Under a supervisor the release was restored by it, or by the `upgrade` command that installed the release.
    if (!supervised) installed?.swap()
    return reply
  } catch (error) {
    if (installed === null || !FdbError.is(error) || error.code !== 'ERR_FDB_NO_STANDBY') throw error
  }
  const { control, service = '', timeout } = flags
  const swap = () => installed.swap()
  const upgraded = await upgradeTo(
    { control, service },
    installed.keptRelease,
    { path: installed.path, apply: swap, revert: swap },
    async release => {
      using client = await OperatorClient.connect(control, { timeout })
      return await client.upgrade({ service, timeout, release })
    },
  )
  return { ...upgraded, isNew: true }
}

interface RollbackResult extends RolledBack {
  readonly supervised: boolean
}

/** Orders the serving process to hand back. Resolves with the process that serves then. */
async function handBack(flags: AskFlags, at: string | null): Promise<RollbackResult> {
  const { timeout } = flags
  const until = performance.now() + timeout
  const before = await statusAt(flags.control, Math.min(timeout, STATUS_ANSWER_MS)).catch(() => null)
  const leaving = readProcessReply(await commandService(flags, RETRY_CODES, ROLLBACK, rollbackBody(at)))
  const service = serviceServedBy(before, leaving) ?? flags.service
  let last: ServiceStatus | undefined
  const found = await pollUntil(until, async leftMs => {
    last = await askStatus({ control: flags.control, ...(service !== undefined && { service }) }, leftMs)
    const { pid, generation = 0, role, hosting } = last ?? {}
    // In different PID namespaces both processes may have the same pid.
    const isAnother = pid !== leaving.pid || generation !== leaving.generation
    if (!pid || !isAnother || role !== 'serving') return null
    return { pid, generation, supervised: hosting === 'supervisor', isNew: generation > leaving.generation }
  })
  if (found !== null) return found
  throw new FdbError(
    'ERR_FDB_DEADLINE',
    `generation ${leaving.generation} (pid ${leaving.pid}) was told to hand back, and no other process serves within ${timeout} ms: ${plain(stepText(last))}`,
  )
}

/** Returns the service that the process serves, which may be one worker of several; undefined if the answer does not tell. */
export function serviceServedBy(
  answer: StatusAnswer | null,
  { pid, generation }: ProcessReply,
): string | undefined {
  if (answer === null || !isDaemon(answer)) return undefined
  return answer.services.find(each => each.pid === pid && each.generation === generation)?.service
}

/** Returns the step at which a rollback waits, by the last status. */
function stepText(last: ServiceStatus | undefined): string {
  if (last === undefined)
    return 'no process answers on the control socket; see fd-broker status, and the log of the previous version'
  const { pid, phase, lastFailure } = last
  const failure = lastFailure == null ? '' : `; its last failure: ${lastFailure.code} ${lastFailure.message}`
  return `process ${pid ?? 'unknown'} is in phase ${phase ?? 'unknown'}${failure}`
}
