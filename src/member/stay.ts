import { readdirSync } from 'node:fs'
import { constants } from 'node:os'
import { isCurrent } from '../handoff/phases.js'
import { OwnedFd, signalTo } from '../kernel/index.js'
import { OperatorClient } from '../operator/client.js'
import { DAEMON_ITSELF } from '../operator/service-name.js'
import { isDaemon, type StatusAnswer } from '../operator/status-report.js'
import { openPidfd, watchDeath } from '../os/liveness.js'
import { endsWithUs, statOf } from '../os/main-process.js'
import { ADOPTED_MS, ZombieReaper } from '../versions/child-processes.js'
import type { Exit } from '../versions/spawn-successor.js'
import { whyMain } from './options.js'
import type { MemberRuntime } from './runtime.js'

export interface StayOptions {
  /**
   * Signals that are passed on to the process that serves in this one's place. Their handlers are installed until it has ended. Default:
   * none.
   */
  signals?: readonly NodeJS.Signals[]
  /**
   * Stays, too, while another container's process serves, until this aborts: for an orchestrator that restarts every container that ends
   * (Kubernetes), and so would have the replaced version, or the one that was rolled back, take over in turn. It ends when no process has
   * served for some seconds. Default: it ends.
   */
  until?: AbortSignal
}

/** Without a SIGCHLD. */
const LOOK_MS = 5_000
const ANSWER_MS = 2_000
/** Another container's process is asked for so often. */
const ELSEWHERE_MS = 2_000
/** Pause after a question without an answer. */
const AGAIN_MS = 500
/** After this many unanswered questions in a row no process serves any more. */
const UNANSWERED = 3

/** Signals that end a service. */
const ENDING: ReadonlySet<NodeJS.Signals> = new Set(['SIGTERM', 'SIGINT'])

/** See `Member.staysForOthers`. */
export function staysForOthers(deps: MemberRuntime): boolean {
  // Signals are this process's own matter as long as it serves, or is to.
  return !isCurrent(deps.machine.phase) && whyStay(deps) !== null
}

function whyStay({ settings }: MemberRuntime): string | null {
  return settings.mainProcess === 'stays' ? whyMain(settings) : null
}

/** See `Member.stay`. */
export async function stay(deps: MemberRuntime, { signals = [], until }: StayOptions): Promise<number> {
  const why = whyStay(deps)
  if (why === null) {
    await deps.shutdown.retired
    return 0
  }
  const others = new Others(deps)
  const forward = (signal: NodeJS.Signals) => {
    if (staysForOthers(deps)) void others.forward(signal)
  }
  const wake = () => others.wake()
  for (const signal of signals) process.on(signal, forward)
  process.on('SIGCHLD', wake)
  try {
    const reason = await deps.shutdown.retired
    deps.settings.logger.info({ reason, why }, 'stays until nobody is left who would end with it')
    const code = await others.ended()
    if (reason !== 'lost' && until !== undefined) await others.endedElsewhere(until)
    // A process that came back after a successor has served last itself.
    return reason === 'closed' ? 0 : code
  } finally {
    for (const signal of signals) process.off(signal, forward)
    process.off('SIGCHLD', wake)
  }
}

/** The processes that would end with this one. */
class Others {
  readonly #deps: MemberRuntime
  readonly #reaper = new ZombieReaper((pid, code) => this.#recordExit(pid, code))
  #code = 0
  #judging: Promise<void> = Promise.resolve()
  #woken = () => {}

  constructor(deps: MemberRuntime) {
    this.#deps = deps
  }

  wake(): void {
    this.#woken()
  }

  /** Passes a signal to the process that serves instead of this one; without one, or to end the service, to all children. */
  async forward(signal: NodeJS.Signals): Promise<void> {
    const { logger } = this.#deps.settings
    using server = await this.#inOurPlace()
    const number = constants.signals[signal]
    try {
      if (server !== null) signalTo(server.pidfd, number)
      // When the service is to end, a version that stands by would take it back from the one that leaves.
      if (server === null || ENDING.has(signal)) {
        for (const pid of children()) if (pid !== server?.pid) process.kill(pid, signal)
      }
      logger.info({ signal, to: server?.pid ?? null }, 'signal passed on')
    } catch (error) {
      logger.warn({ err: error, signal }, 'a signal could not be passed on')
    }
  }

  /** Resolves with the exit code when none is left. */
  async ended(): Promise<number> {
    // Node tells of those that this process has started itself.
    for (const { pid, exited } of this.#deps.upgrades.started)
      void exited.then(exit => this.#recordExit(pid, codeOf(exit)))
    for (;;) {
      const children = this.#reaper.reap()
      await this.#judging
      if (children) {
        await this.#change(this.#reaper.waiting ? ADOPTED_MS : LOOK_MS)
        continue
      }
      // No child: it came from elsewhere into what ends with us (docker exec), and its end shows on its pidfd.
      using server = await this.#inOurPlace()
      if (server === null) return this.#code
      await deathOf(server.pidfd)
    }
  }

  /** Resolves when the process in another container serves no more, or `until` aborts. */
  async endedElsewhere(until: AbortSignal): Promise<void> {
    const wake = () => this.wake()
    until.addEventListener('abort', wake, { once: true })
    for (let unanswered = 0; !until.aborted && unanswered < UNANSWERED; ) {
      unanswered = (await this.#ask()) === null ? unanswered + 1 : 0
      if (!until.aborted) await this.#change(unanswered > 0 ? AGAIN_MS : ELSEWHERE_MS)
    }
    until.removeEventListener('abort', wake)
  }

  /** The code of a process counts if no process serves after its end. */
  #recordExit(pid: number, code: number): void {
    this.#judging = this.#judging.then(async () => {
      const serves = await this.#ask()
      this.#code = serves === null ? this.#code || code : 0
      this.#deps.settings.logger.info(
        { pid, code, serves },
        'a process that would end with this one has ended',
      )
    })
    this.wake()
  }

  #change(ms: number): Promise<void> {
    return new Promise(resolve => {
      const timer = setTimeout(resolve, ms)
      this.#woken = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  /** The process that serves, by a pidfd of its own, if it would end with us. */
  async #inOurPlace(): Promise<({ pid: number; pidfd: OwnedFd } & Disposable) | null> {
    const pid = await this.#here()
    if (pid === null || !endsWithUs(pid)) return null
    const pidfd = openPidfd(pid)
    if (!(pidfd instanceof OwnedFd)) return null
    // It serves still: so the number was not another's when the descriptor was opened.
    if ((await this.#here()) === pid) return { pid, pidfd, [Symbol.dispose]: () => pidfd.close() }
    pidfd.close()
    return null
  }

  /** Pid of the process that serves, if it is one of this PID namespace: a pid of another container names another process here. */
  async #here(): Promise<number | null> {
    const server = await this.#ask()
    return server === null || server.elsewhere ? null : server.pid
  }

  /** The process that serves; null: there is none. */
  async #ask(): Promise<{ pid: number; elsewhere: boolean } | null> {
    const { control, service } = this.#deps.settings
    if (control === null) return null
    try {
      using client = await OperatorClient.connect(control, { timeout: ANSWER_MS })
      const pid = serverOf(await client.status({ timeout: ANSWER_MS }), service)
      return pid === null ? null : { pid, elsewhere: client.inOtherPidNamespace }
    } catch {
      return null
    }
  }
}

/** The children, in one turn with what is done to them: a child's number is its own until it is reaped. */
function children(): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter(pid => Number.isInteger(pid) && statOf(pid)?.parent === process.pid)
}

function serverOf(answer: StatusAnswer, service: string): number | null {
  if (!isDaemon(answer)) return answer.pid ?? null
  const { pid, services } = answer
  return (service === DAEMON_ITSELF ? pid : services.find(one => one.service === service)?.pid) ?? null
}

function codeOf({ code, signal }: Exit): number {
  return code ?? 128 + constants.signals[signal ?? 'SIGKILL']
}

function deathOf(pidfd: OwnedFd): Promise<void> {
  return new Promise(resolve => {
    watchDeath(pidfd, resolve)
  })
}
