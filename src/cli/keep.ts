import { constants } from 'node:os'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { executeInstead, holdSignals, releaseSignals, trySignalTo } from '../kernel/index.js'
import { LastServer, type ServerProcess } from '../operator/serving.js'
import { startedAs } from '../os/command-line.js'
import { holdingVariables, KEEP_MASK, WAITS } from '../os/held-signals.js'
import { endsWithin, untilEnded } from '../os/liveness.js'
import { ADOPTED_MS, ZombieReaper } from '../versions/child-processes.js'
import type { Command } from './command.js'
import { controlOption } from './options.js'

/** Environment variable of `native/waiting.c`: the awaited pid, and `PID:CODE` of children that have ended. */
const WAITED = 'FD_BROKER_WAITED'
/** Environment variable of `native/waiting.c`: the signals that the addon has sent to the awaited process. */
const SENT = 'FD_BROKER_SENT'
/** Delay before this process waits without Node: another signal may follow. */
const SETTLED_MS = 1_000

interface KeepFlags {
  readonly control: string
  readonly main?: true
}

/**
 * Adds the command that a retired `fd-broker/auto` process executes if its exit would end its successors, or would return the terminal to the
 * shell.
 */
export function addKeep(program: Command): void {
  program
    .command('keep', { hidden: true })
    .description('wait for the end of a service, and pass signals on to its process')
    .addOption(controlOption())
    .option('--main', 'this process is the main process of a container or unit: all others end with it')
    .action(keep)
}

async function keep({ control, main }: KeepFlags): Promise<void> {
  const { awaited, codes, sent } = takeWaited()
  // The addon cannot wait here, or it would have removed the variable.
  let waitsInNode = process.env[WAITS] !== undefined
  const reaper = new ZombieReaper((pid, code) => codes.set(pid, code))
  const reaping = setInterval(() => reaper.reap(), ADOPTED_MS)
  using last = new LastServer(control, { known: awaited })
  let served = awaited
  let forwarding = 0
  /** `told` has got the signal, but may have been replaced. */
  const follow = async (number: number, told: ServerProcess | null) => {
    forwarding++
    await last.ask()
    const now = last.present
    if (now !== null && now.pid !== told?.pid) trySignalTo(now.pidfd, number)
    forwarding--
  }
  const forward = async (signal: NodeJS.Signals) => {
    const number = constants.signals[signal]
    // At once: a tool that has started this process may kill it if it does not soon obey.
    const told = last.present
    if (told !== null) trySignalTo(told.pidfd, number)
    await follow(number, told)
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, forward)
  const hangUp = (signal: NodeJS.Signals) => {
    if (main) return forward(signal)
    // A closed terminal ends only this process; the service keeps running. Without its terminal Node aborts in exit(), so the signal ends it.
    process.off(signal, hangUp)
    process.kill(process.pid, signal)
  }
  process.on('SIGHUP', hangUp)
  for (const number of sent) void follow(number, last.present)
  // The program image that executed this command has blocked these signals.
  releaseSignals()
  for (;;) {
    await last.find()
    // A process that answers no more may still serve, or finish the answers to its clients.
    const server = last.present
    if (server === null) break
    served = server.pid
    if (!waitsInNode && !(await endsWithin(server.pidfd, SETTLED_MS))) {
      holdSignals(KEEP_MASK)
      // Signals that came before are handled in these turns of the event loop.
      await nextTurn()
      await nextTurn()
      if (forwarding === 0) waitsInNode = !executeWaiting(server.pid)
      releaseSignals()
    }
    if (waitsInNode) await untilEnded(server.pidfd)
  }
  // The reaper reaps an ended child ADOPTED_MS after it has found the child, and finds one child at a time.
  reaper.reap()
  do {
    await sleep(ADOPTED_MS)
    reaper.reap()
  } while (served !== null && !codes.has(served) && reaper.isWaiting)
  clearInterval(reaping)
  process.exitCode = (served === null ? undefined : codes.get(served)) ?? 0
  process.exit()
}

/** Removes the variables of the addon, and returns what it has seen. */
function takeWaited(): { awaited: number | null; codes: Map<number, number>; sent: number[] } {
  const [awaited = '', ...ends] = (process.env[WAITED] ?? '').split(' ')
  const codes = new Map(ends.map(end => end.split(':').map(Number) as [number, number]))
  const sent = (process.env[SENT] ?? '').split(' ').map(Number).filter(Boolean)
  delete process.env[WAITED]
  delete process.env[SENT]
  return { awaited: Number(awaited) || null, codes, sent }
}

/**
 * Waits for the end of the process without Node, which needs 40 MiB: executes this command again, with the addon preloaded, which does not let Node start
 * before. Returns false if this process cannot do that.
 */
function executeWaiting(pid: number): boolean {
  const holding = holdingVariables(KEEP_MASK)
  const [, script] = process.argv
  if (holding === null || script === undefined) return false
  const { [WAITS]: _, [WAITED]: __, [SENT]: ___, ...env } = startedAs.env
  const argv = ['node', script, ...process.argv.slice(2)]
  try {
    executeInstead(
      { file: process.execPath, cwd: '/', argv, env: { ...env, ...holding, [WAITS]: `${pid}` } },
      [],
    )
  } catch {
    return false
  }
}
