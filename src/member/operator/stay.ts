import { constants } from 'node:os'
import { FdbError } from '../../errors.js'
import { isCurrent } from '../../handoff/phases.js'
import { processes, signalTo, trySignal } from '../../kernel/index.js'
import { askServing, LastServer, type ServerProcess, servingPid } from '../../operator/serving.js'
import { untilEnded } from '../../os/liveness.js'
import { endsWithUs, processStat } from '../../os/main-process.js'
import { ADOPTED_MS, ZombieReaper } from '../../versions/child-processes.js'
import type { Exit } from '../../versions/spawn-successor.js'
import { ChangeNotifier } from '../../wire/pending.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import { mainProcessReason, type Settings } from '../options/options.js'
import type { Announcer } from './announcer.js'
import type { Upgrades } from './upgrades.js'

interface StayDeps {
  readonly settings: Pick<Settings, 'control' | 'logger' | 'mainProcess' | 'service' | 'systemd'>
  readonly machine: Pick<Machine, 'phase'>
  readonly shutdown: Pick<Shutdown, 'retired'>
  readonly announcer: Pick<Announcer, 'isReplacedMain'>
  readonly upgrades: Pick<Upgrades, 'started'>
}

export interface StayOptions {
  /**
   * The signals that this process forwards to the process that serves after it. The handlers of these signals stay installed until that process has ended.
   * Default: none.
   */
  signals?: readonly NodeJS.Signals[] | undefined
  /**
   * Also stays while a process in another container serves, until `until` aborts or no process has served for some seconds. For an
   * orchestrator that restarts every container that ends (Kubernetes): otherwise the replaced version would start again in the restarted
   * container, and take over. Default: does not stay for other containers.
   */
  until?: AbortSignal | undefined
}

/** The interval at which children are checked even if no SIGCHLD has arrived. */
const CHILD_CHECK_MS = 5_000
/** The interval of polls whether a process in another container serves. */
const ELSEWHERE_MS = 2_000
/** The delay after a poll without an answer. */
const POLL_RETRY_MS = 500
/** After this many polls in a row without an answer, no process counts as serving. */
const UNANSWERED = 3

const ENDING: ReadonlySet<NodeJS.Signals> = new Set(['SIGTERM', 'SIGINT'])

/** Whether the value is the name of a signal for which Node can install a handler. */
export function isHandled(signal: unknown): boolean {
  if (typeof signal !== 'string' || !Object.hasOwn(constants.signals, signal)) return false
  return signal !== 'SIGKILL' && signal !== 'SIGSTOP'
}

export function staysForOthers(deps: StayDeps): boolean {
  // A process that serves, or will serve, needs no reason to stay alive, and handles its signals itself.
  return !isCurrent(deps.machine.phase) && (whyStay(deps) !== null || deps.announcer.isReplacedMain)
}

function whyStay({ settings }: StayDeps): string | null {
  return settings.mainProcess === 'stays' ? mainProcessReason(settings) : null
}

export async function stay(deps: StayDeps, { signals = [], until }: StayOptions): Promise<number> {
  const why = whyStay(deps)
  const others = why === null ? null : new DependentProcesses(deps)
  const forward = (signal: NodeJS.Signals) => {
    if (staysForOthers(deps)) void (others?.forward(signal) ?? forwardToServing(deps, signal))
  }
  for (const signal of signals) process.on(signal, forward)
  if (others === null) {
    // The main process of a unit that knows its successor: it leaves when the manager knows it too.
    await deps.shutdown.retired
    for (const signal of signals) process.off(signal, forward)
    return 0
  }
  const wake = () => others.wake()
  process.on('SIGCHLD', wake)
  try {
    const reason = await deps.shutdown.retired
    deps.settings.logger.info({ reason, why }, 'stays until no process is left that would end with this one')
    const code = await others.ended()
    if (reason !== 'lost' && until !== undefined) await others.endedElsewhere(until)
    // `closed`: this process was the last that served, so the exit codes of other processes do not count.
    return reason === 'closed' ? 0 : code
  } finally {
    for (const signal of signals) process.off(signal, forward)
    process.off('SIGCHLD', wake)
    others.close()
  }
}

async function forwardToServing({ settings }: StayDeps, signal: NodeJS.Signals): Promise<void> {
  const { control, logger, service } = settings
  const pid = await servingPid(control, service)
  if (pid === null || pid === process.pid) return
  trySignal(pid, signal)
  logger.info({ signal, to: pid }, 'signal forwarded')
}

class DependentProcesses {
  readonly #deps: StayDeps
  readonly #last: LastServer
  readonly #reaper = new ZombieReaper((pid, code) => this.#recordExit(pid, code))
  #code = 0
  /** The signals that were forwarded to end the service: a process that one of them ends has not failed. */
  readonly #endSignals = new Set<number>()
  /** Resolves when it is known for all recorded exits whether they count. */
  #judging: Promise<void> = Promise.resolve()
  readonly #wakes = new ChangeNotifier()
  /** Also set while nothing waits: a child may end while it is asked which process serves. */
  #isAwake = false

  constructor(deps: StayDeps) {
    this.#deps = deps
    const { control, service } = deps.settings
    this.#last = new LastServer(control, { service })
  }

  wake(): void {
    this.#isAwake = true
    this.#wakes.notify()
  }

  /** Forwards a signal to the process that serves. If there is none, or the signal ends the service, also to all children. */
  async forward(signal: NodeJS.Signals): Promise<void> {
    const { logger } = this.#deps.settings
    await this.#last.ask()
    const server = this.#dependent
    const number = constants.signals[signal]
    if (ENDING.has(signal)) this.#endSignals.add(number)
    try {
      if (server !== null) signalTo(server.pidfd, number)
      // If only the serving process left, a standby would take over.
      if (server === null || ENDING.has(signal)) {
        for (const pid of children()) if (pid !== server?.pid) process.kill(pid, signal)
      }
      logger.info({ signal, to: server?.pid ?? null }, 'signal forwarded')
    } catch (error) {
      logger.warn(
        { err: error, signal },
        'a signal could not be forwarded to all processes and is not sent again',
      )
    }
  }

  /** Resolves with the exit code for this process when no dependent process is left. */
  async ended(): Promise<number> {
    // Node, not the reaper, reaps the successors that this process has started.
    for (const { pid, exited } of this.#deps.upgrades.started)
      void exited.then(exit => this.#recordExit(pid, codeOf(exit)))
    for (;;) {
      const children = this.#reaper.reap()
      await this.#judging
      if (children) {
        await this.#change(this.#reaper.isWaiting ? ADOPTED_MS : CHILD_CHECK_MS)
        continue
      }
      // The process that serves may be no child (docker exec): wait for its end with a pidfd.
      await this.#last.find()
      const server = this.#dependent
      if (server === null) return this.#code
      await untilEnded(server.pidfd)
    }
  }

  /** Resolves when no process in another container serves any more, or `until` aborts. */
  async endedElsewhere(until: AbortSignal): Promise<void> {
    const wake = () => this.wake()
    until.addEventListener('abort', wake, { once: true })
    for (let unanswered = 0; !until.aborted && unanswered < UNANSWERED; ) {
      unanswered = (await this.#serves()) ? 0 : unanswered + 1
      if (!until.aborted) await this.#change(unanswered > 0 ? POLL_RETRY_MS : ELSEWHERE_MS)
    }
    until.removeEventListener('abort', wake)
  }

  /** The exit code of a process counts if no process serves after its end. */
  #recordExit(pid: number, exitCode: number): void {
    const code = this.#endSignals.has(exitCode - 128) ? 0 : exitCode
    this.#judging = this.#judging.then(async () => {
      const serves = await this.#serves()
      this.#code = serves ? 0 : this.#code || code
      this.#deps.settings.logger.info(
        { pid, code, serves },
        'a process that would end with this one has ended',
      )
    })
    this.wake()
  }

  /** Resolves after `ms`, or at the first {@link wake} since the last call. */
  async #change(ms: number): Promise<void> {
    await this.#wakes.until(() => this.#isAwake, ms)
    this.#isAwake = false
  }

  /** The process that has served at the last answer, if it would end with this one; otherwise null. */
  get #dependent(): ServerProcess | null {
    const { present } = this.#last
    return present !== null && endsWithUs(present.pid) ? present : null
  }

  /** Whether a process serves, also in another container. */
  async #serves(): Promise<boolean> {
    const { control, service } = this.#deps.settings
    const serving = await askServing(control, service)
    return serving !== null && !FdbError.is(serving)
  }

  close(): void {
    this.#last[Symbol.dispose]()
  }
}

/** Returns the pids of all children. Valid in this turn of the event loop only: after a child is reaped, its pid may be reused. */
function children(): number[] {
  return processes().filter(pid => processStat(pid)?.parent === process.pid)
}

function codeOf({ code, signal }: Exit): number {
  return code ?? 128 + constants.signals[signal ?? 'SIGKILL']
}
