import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { OwnedFd, releaseSignals, trySignal } from '../kernel/index.js'
import { statusAt } from '../operator/client.js'
import { isDaemon } from '../operator/status-report.js'
import { openPidfd, watchDeath } from '../os/liveness.js'
import { ADOPTED_MS, ZombieReaper } from '../versions/child-processes.js'
import { controlOption } from './options.js'

const ANSWER_MS = 2_000
const RETRY_MS = 200
/** A service that does not answer for this long counts as ended. */
const UNANSWERED_MS = 3_000

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
  const codes = new Map<number, number>()
  const reaper = new ZombieReaper((pid, code) => codes.set(pid, code))
  const reaping = setInterval(() => reaper.reap(), ADOPTED_MS)
  let served: number | null = null
  const forward = async (signal: NodeJS.Signals) => {
    // The awaited process may have been replaced.
    served = (await servingPid(control)) ?? served
    if (served !== null) trySignal(served, signal)
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, forward)
  const hangUp = (signal: NodeJS.Signals) => {
    if (main) return forward(signal)
    // A closed terminal ends only this process; the service keeps running. Without its terminal Node aborts in exit(), so the signal ends it.
    process.off(signal, hangUp)
    process.kill(process.pid, signal)
  }
  process.on('SIGHUP', hangUp)
  // The program image that executed this command has blocked these signals.
  releaseSignals()
  for (;;) {
    const pid = await servingPid(control)
    if (pid === null) break
    served = pid
    await waitForEnd(pid)
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

/** Returns the pid of the serving process, or null if the service has ended. */
async function servingPid(control: string): Promise<number | null> {
  const until = performance.now() + UNANSWERED_MS
  for (;;) {
    try {
      const answer = await statusAt(control, ANSWER_MS)
      if (!isDaemon(answer) && answer.pid) return answer.pid
    } catch (error) {
      const { code } = error as { readonly code?: unknown }
      // No process listens on the control socket.
      if (code === 'ERR_FDB_NO_HOLDER') return null
    }
    if (performance.now() >= until) return null
    await sleep(RETRY_MS)
  }
}

async function waitForEnd(pid: number): Promise<void> {
  const pidfd = openPidfd(pid)
  if (!(pidfd instanceof OwnedFd)) {
    await sleep(RETRY_MS)
    return
  }
  await new Promise<void>(resolve => watchDeath(pidfd, resolve))
  pidfd.close()
}
