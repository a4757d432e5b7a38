import { setTimeout as sleep } from 'node:timers/promises'
import { FdbError } from '../errors.js'
import { isDaemon, STATUS_ANSWER_MS, type StatusAnswer } from '../operator/status-report.js'
import { DRAIN_COMMAND, type DrainReply, type Step } from '../proxy/leaving.js'
import {
  type AnswerFlags,
  askService,
  commandService,
  IDEMPOTENT_RETRY_CODES,
  ofServiceWith,
  pollUntil,
} from './ask-service.js'
import type { Command } from './command.js'
import { addAskOptions } from './find-service.js'
import { durationOption } from './options.js'
import { print, WaitingLine, writeStderr } from './output.js'
import { narrowAnswer } from './status-answer.js'

/** How long tunnels and answers may take to end after `--drain`. */
const END_MS = 5_000
/** How often a waiting command looks whether the machine was told to serve again. */
const LOOK_MS = 500

interface DrainFlags extends AnswerFlags {
  wait: number
  drain?: number
  undo?: true
}

export function addDrain(program: Command): void {
  addAskOptions(program.command('drain'))
    .description('take the proxy of this machine out of its balancer before a reboot')
    .addOption(durationOption('--wait <duration>', 'time until the balancer has noticed', '10s'))
    .addOption(
      durationOption('--drain <duration>', 'time limit for connections after that; default: as configured'),
    )
    .option('--undo', 'get requests again, if the machine is not rebooted')
    .notes(`First the path "ready" of the configuration answers 503, and all else is served. After --wait each answer ends its connection, and connections
without a request for a second are closed; after --drain tunnels are closed too. The proxy accepts connections to the end, also in its next versions.`)
    .examples('fd-broker drain --service edge && reboot', 'fd-broker drain --service edge --undo')
    .action(drain)
}

async function drain({ json, wait, drain, undo, ...flags }: DrainFlags): Promise<void> {
  if (undo) {
    const { ready } = await take(flags, 'serving')
    print(json, { ok: true }, ready === null ? 'connections stay\n' : `${ready} answers 200 again\n`)
    return
  }
  const { ready, timeout } = await take(flags, 'unready')
  if (ready === null)
    writeStderr(
      'the configuration has no key "ready": no check of a balancer fails, take the machine out there',
    )
  const end = performance.now() + wait
  await waiting('the balancer takes the machine out', async () => {
    for (let left = wait; left > 0; left = end - performance.now()) {
      await leave(flags, '')
      await sleep(Math.min(left, LOOK_MS))
    }
  })
  await leave(flags, 'leaving')
  const limit = drain ?? timeout
  let left = await emptied(flags, limit)
  if (left > 0) {
    await leave(flags, 'ended')
    left = await emptied(flags, END_MS)
  }
  if (left > 0)
    throw new FdbError('ERR_FDB_DEADLINE', `${left} connections are still open after ${limit} ms: see status`)
  print(json, { ok: true }, 'no connection is left: this machine can be rebooted\n')
}

async function take(flags: AnswerFlags, step: Step | ''): Promise<DrainReply> {
  const asked = commandService(flags, IDEMPOTENT_RETRY_CODES, DRAIN_COMMAND, step)
  const reply = await ofServiceWith('this service is not a proxy: name the proxy', asked)
  return JSON.parse(reply.toString()) as DrainReply
}

/** Rejects with ERR_FDB_ABORTED if the machine serves again. */
async function leave(flags: AnswerFlags, step: Step | ''): Promise<void> {
  const { step: now } = await take(flags, step)
  if (now === 'serving')
    throw new FdbError('ERR_FDB_ABORTED', 'the machine was told to serve again (drain --undo)')
}

/** Resolves with the number of connections that are left after `ms`. */
async function emptied(flags: AnswerFlags, ms: number): Promise<number> {
  let left = 0
  await waiting('connections end', () =>
    pollUntil(performance.now() + ms, async () => {
      left = await connections(flags)
      return left === 0 ? true : null
    }),
  )
  return left
}

async function connections(flags: AnswerFlags): Promise<number> {
  const answer = await askService(flags, IDEMPOTENT_RETRY_CODES, client =>
    client.status({ timeout: STATUS_ANSWER_MS }),
  )
  return connectionsIn(answer, flags)
}

/** Counts those of all workers and of older versions, not those of other services of a daemon. */
export function connectionsIn(
  answer: StatusAnswer,
  { control, service = '' }: Pick<AnswerFlags, 'control' | 'service'>,
): number {
  const own = narrowAnswer(answer, { control, service })
  const all = isDaemon(own) ? own.services : [own]
  return all
    .flatMap(each => [each, ...(each.draining ?? [])])
    .reduce((sum, { connections = 0 }) => sum + connections, 0)
}

async function waiting<T>(text: string, work: () => Promise<T>): Promise<T> {
  using _line = new WaitingLine(text)
  return await work()
}
