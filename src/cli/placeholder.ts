import { setTimeout as rest } from 'node:timers/promises'
import type { Command } from 'commander'
import { OwnedFd, releaseSignals } from '../kernel/index.js'
import { statusAt } from '../operator/client.js'
import { isDaemon } from '../operator/status-report.js'
import { openPidfd, watchDeath } from '../os/liveness.js'
import { ADOPTED_MS, ZombieReaper } from '../versions/child-processes.js'
import { controlOption } from './options.js'

const ANSWER_MS = 2_000
const AGAIN_MS = 200
/** A service without an answer for so long has ended. */
const UNANSWERED_MS = 3_000
/** After this time a child that has ended was reaped. */
const REAPED_MS = 2 * ADOPTED_MS

interface KeepFlags {
  readonly control: string
  readonly main?: true
}

/**
 * The place of a replaced process under `fd-broker/auto` whose end would end its successors, or give its terminal back to the shell: this
 * command is executed in that very process.
 */
export function addKeep(program: Command): void {
  program
    .command('keep', { hidden: true })
    .description('wait for the end of a service, and pass signals on to its process')
    .addOption(controlOption())
    .option('--main', 'of a container or unit: all processes there end with this one')
    .action(keep)
}

async function keep({ control, main }: KeepFlags): Promise<void> {
  const codes = new Map<number, number>()
  const reaper = new ZombieReaper((pid, code) => codes.set(pid, code))
  const reaping = setInterval(() => reaper.reap(), ADOPTED_MS)
  let served: number | null = null
  const pass = async (signal: NodeJS.Signals) => {
    // The one that is waited for may have been replaced.
    const pid = (await servingPid(control)) ?? served
    if (pid !== null) signalPid(pid, signal)
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, pass)
  // The terminal is closed: the service goes on.
  process.on('SIGHUP', signal => void (main ? pass(signal) : process.exit(0)))
  // The process whose place this is has blocked them.
  releaseSignals()
  for (;;) {
    const pid = await servingPid(control)
    if (pid === null) break
    served = pid
    await endOf(pid)
  }
  await rest(REAPED_MS)
  reaper.reap()
  clearInterval(reaping)
  process.exitCode = (served === null ? undefined : codes.get(served)) ?? 0
  process.exit()
}

/** Null: no process serves any more. */
async function servingPid(control: string): Promise<number | null> {
  const until = performance.now() + UNANSWERED_MS
  for (;;) {
    try {
      const answer = await statusAt(control, ANSWER_MS)
      if (!isDaemon(answer) && answer.pid) return answer.pid
    } catch (error) {
      const { code } = error as { readonly code?: unknown }
      // Nothing listens there.
      if (code === 'ERR_FDB_NO_HOLDER') return null
    }
    if (performance.now() >= until) return null
    await rest(AGAIN_MS)
  }
}

function signalPid(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // It has just ended.
  }
}

async function endOf(pid: number): Promise<void> {
  const pidfd = openPidfd(pid)
  if (!(pidfd instanceof OwnedFd)) {
    await rest(AGAIN_MS)
    return
  }
  await new Promise<void>(resolve => watchDeath(pidfd, resolve))
  pidfd.close()
}
