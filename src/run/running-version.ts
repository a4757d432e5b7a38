import { constants } from 'node:os'
import { startedWith } from '../base/successor-output.js'
import { FdbError } from '../errors.js'
import { hasEnded, inspectOne, type OwnedFd, processes, trySignalTo } from '../kernel/index.js'
import type { ListenerGuard } from '../listeners/index.js'
import { startRemedy, successorCommand } from '../os/command-line.js'
import { type DeathWatch, openPidfd, pidfdOfLiving, watchDeath } from '../os/liveness.js'
import { descendsFrom, endsWithUs, processStat } from '../os/main-process.js'
import { ChildProcesses } from '../versions/child-processes.js'
import { ExitReason, NO_REASON } from '../versions/exit-reason.js'
import { endProcesses, GRACE_MS, LeftoverProcesses } from '../versions/leftover-processes.js'
import type { Probe, ProbeEvents } from '../versions/version-probe.js'
import type { DeathGuard } from './death-guard.js'
import type { ExecState, InheritedVersion } from './exec-state.js'
import { Exits } from './failures.js'
import type { Predecessor } from './predecessor.js'
import type { ReloadableSettings, VersionSettings } from './settings.js'
import {
  listenerVariables,
  PID_VARIABLE,
  SharedListeners,
  type StoredListeners,
  unitStops,
  VERSION_VARIABLE,
} from './shared-listeners.js'

/** Exit code to report for a process that another process reaped. */
const UNKNOWN_CODE = 1
/** After a pidfd reports death, the time to wait for SIGCHLD, whose handler gets the exit code. */
const REAPED_MS = 500

export interface VersionDeps {
  readonly id: number
  readonly settings: VersionSettings
  readonly probe: Probe
  readonly children: Pick<ChildProcesses, 'expect' | 'forget' | 'kill' | 'signal' | 'start'>
  readonly listeners: SharedListeners
  /** Whether no other version has a process. */
  readonly alone: boolean
  /** Control path of the supervisor, beside which the version writes why it ends. If null, the version writes nothing. */
  readonly control?: string | null
  /** Null if no process must end with the supervisor. */
  readonly deathGuard?: Pick<DeathGuard, 'add'> | null
}

export interface VersionEvents extends Omit<ProbeEvents, 'mainProcess' | 'statusText'> {
  /** The main process has ended; `left` are the version's processes that still run, owned by the callee. */
  exited(code: number, left: LeftoverProcesses): void
  /** Whether the process is another version's main process, or descends from it, as under a shell. */
  isOthers(pid: number): boolean
  /** Returns when the first running version after `ticks` started, in ticks of the kernel's clock; Infinity if there is none. */
  nextStart(ticks: number): number
}

/** A version that has a process. The main process may hand over to a process that it started, which becomes the main process. */
export class RunningVersion {
  readonly id: number
  settings: VersionSettings
  readonly startedAt: number
  statusText = ''
  readonly #children: VersionDeps['children']
  readonly #probe: Probe
  readonly #events: VersionEvents
  /** Reads why the version ended, until the version is proven or told to end. Null if it writes no reason. */
  readonly #exitReason: ExitReason | null
  #pid: number
  #watch: DeathWatch | null = null
  /** Pidfd of a main process that is not a child of this process: its parent reaps it, so its pid may be reused. */
  #pidfd: OwnedFd | null = null
  /** The main process whose end was handled: a pidfd may report the end after SIGCHLD. */
  #endedPid = 0
  #isReplaced = false
  #hasServed = false
  /** Numbers of the signals that asked the version to end. */
  readonly #endSignals = new Set<number>()
  /** When the main process started, in ticks of the kernel's clock. */
  readonly startTicks: number
  /** The shared listeners, as /proc/PID/fd names them: `socket:[4711]`. */
  readonly #sockets: ReadonlySet<string>
  #closed = false

  /**
   * Starts the version or, with `inherited`, continues with the running one. Owns the probe. Throws ERR_FDB_SPAWN, ERR_FDB_NO_BINARY,
   * ERR_FDB_NO_CWD, bind errors.
   */
  constructor(
    { id, settings, probe, children, listeners, alone, control = null, deathGuard = null }: VersionDeps,
    events: VersionEvents,
    inherited: InheritedVersion | null = null,
  ) {
    this.id = id
    this.settings = settings
    this.startedAt = inherited?.startedAt ?? Date.now()
    this.#children = children
    this.#probe = probe
    this.#events = events
    if (!settings.survive) deathGuard?.add(`${VERSION_VARIABLE}=${this.#mark}`)
    const file = inherited === null ? null : (inherited.exitReason ?? '')
    this.#exitReason = control === null || file === '' ? null : new ExitReason(control, file)
    try {
      this.#pid = inherited?.pid ?? this.#spawn(listeners, alone)
    } catch (error) {
      probe[Symbol.dispose]()
      this.#exitReason?.close()
      throw error
    }
    this.startTicks = processStat(this.#pid)?.startTicks ?? Number.POSITIVE_INFINITY
    this.#sockets = new Set(listeners.held.map(({ fd }) => `socket:[${inspectOne(fd).ino}]`))
    if (inherited !== null) this.#resume(inherited)
  }

  /** State for the next image of the supervisor. */
  get snapshot(): InheritedVersion {
    const { id, pid, settings, startedAt, statusText: says } = this
    return {
      id,
      pid,
      settings,
      startedAt,
      says,
      replaced: this.#isReplaced,
      exitReason: this.#exitReason?.mark.value ?? null,
      hearing: this.#probe.notifyEndpoint ?? null,
      place: this.#probe.url,
    }
  }

  get pid(): number {
    return this.#pid
  }

  /** Whether the version is a member of fd-broker: it hands its connections over and ends by itself. */
  get handsOver(): boolean {
    return this.settings.ready.kind === 'handoff'
  }

  /** Why the last health check failed; null if it passed, or if none was made. */
  get complaint(): string | null {
    return this.#probe.complaint
  }

  /** The step that a version that is not ready has not completed. */
  get missing(): string {
    return this.complaint ?? `it is not ready as --ready ${this.settings.ready.kind} requires`
  }

  /** See {@link ExitReason.takeReason}. */
  takeReason(): ReturnType<ExitReason['takeReason']> {
    return this.#exitReason?.takeReason() ?? { why: NO_REASON, lines: null }
  }

  /** Returns the version's last lines on stderr, once. Null if there are none, or if the version is not a Node program. */
  takeLines(): string | null {
    return this.#exitReason?.takeLines() ?? null
  }

  startProbe(): void {
    this.#probe.start(this.#pid, {
      ready: () => this.#events.ready(),
      failed: why => this.#events.failed(why),
      recovered: () => this.#events.recovered(),
      statusText: text => {
        this.statusText = text
      },
      mainProcess: pid => void this.#setMainProcess(pid),
    })
  }

  get isCheckPending(): boolean {
    return this.#probe.isOpen
  }

  /** Whether health checks continue while the version serves. */
  get isMonitored(): boolean {
    return this.#probe.asksServing
  }

  markServing(): void {
    this.#hasServed = true
    this.#probe.markServing()
  }

  markProven(): void {
    this.#probe.markProven()
    this.#exitReason?.close()
  }

  /**
   * Stops the health checks of a version that is told to end. If the version failed before it served, its stop timeout is at most
   * {@link GRACE_MS}: until it ends it may accept connections.
   */
  stopProbe(failed: boolean): void {
    this.#probe.stop()
    this.#exitReason?.close()
    const stopTimeout = Math.min(this.settings.stopTimeout, GRACE_MS)
    if (failed && !this.#hasServed) this.settings = { ...this.settings, stopTimeout }
  }

  /** Notes that another version has replaced this one: the process that serves at its control path is not its own any more. */
  markReplaced(): void {
    this.#isReplaced = true
  }

  /** Returns 0 if the version ended by the signal that told it to end, else `code`. */
  resultOf(code: number): number {
    return this.#endSignals.has(code - 128) ? 0 : code
  }

  /** Tells the version to end by a signal. With `all`, also signals the process that serves instead of its main process. */
  requestEnd(signal: NodeJS.Signals, all: boolean): void {
    this.#endSignals.add(constants.signals[signal])
    if (all) void this.#signalAll(signal)
    else this.signal(signal)
  }

  /** Whether the main process has ended and is reaped: another child may have its pid. */
  get #hasEnded(): boolean {
    return this.#endedPid === this.#pid
  }

  signal(signal: NodeJS.Signals): void {
    if (this.#hasEnded) return
    if (this.#pidfd === null) this.#children.signal(this.#pid, signal)
    else trySignalTo(this.#pidfd, constants.signals[signal])
  }

  async #signalAll(signal: NodeJS.Signals): Promise<void> {
    this.signal(signal)
    const { ready } = this.settings
    if (ready.kind !== 'handoff' || this.#isReplaced) return
    const server = await servesAt(ready.control)
    if (server !== null && server !== this.#pid && !this.#events.isOthers(server)) signalOther(server, signal)
  }

  kill(): void {
    if (!this.#hasEnded && (this.#pidfd === null || !hasEnded(this.#pidfd))) this.#children.kill(this.#pid)
  }

  /** Stops watching the version. */
  close(): void {
    this.#closed = true
    this.#unwatch()
    if (!this.#hasEnded) this.#children.forget(this.#pid)
    this.#exitReason?.close()
    this.#probe[Symbol.dispose]()
  }

  #spawn(shared: SharedListeners, alone: boolean): number {
    const { settings } = this
    const provided = shared.provide(settings.listen, settings.nonBlocking, alone)
    const listeners = [...provided, ...this.#probe.listeners]
    const variables = {
      ...listenerVariables(listeners, this.id),
      [VERSION_VARIABLE]: this.#mark,
      ...this.#probe.env,
      ...settings.env,
    }
    const command = successorCommand({ argv: settings.command, cwd: settings.cwd, env: variables })
    const { file, cwd, env } = command
    const start = {
      ...command,
      env: this.#exitReason === null ? env : startedWith({ ...env, ...this.#exitReason.env }),
      ...(listeners.length > 0 && { pidVariable: PID_VARIABLE }),
      fds: [...listeners.map(({ fd }) => fd), ...this.#probe.fds],
      deathSignal: settings.survive ? 0 : constants.signals.SIGKILL,
    }
    try {
      const pid = this.#children.start(start, code => this.#exited(pid, code))
      return pid
    } catch (cause) {
      const { code = String(cause) } = cause as NodeJS.ErrnoException
      const message = `cannot start ${file} in ${cwd} (${code}): ${startRemedy(code)}`
      throw new FdbError('ERR_FDB_SPAWN', message, { cause, details: { file, cwd } })
    }
  }

  get #mark(): string {
    return `${process.pid}.${this.id}.${this.startedAt}`
  }

  #exited(pid: number, code: number): void {
    if (this.#closed || pid !== this.#pid || pid === this.#endedPid) return
    this.#endedPid = pid
    const { ready } = this.settings
    // The older processes of a version that hands over end by themselves: only the main process's group is left behind.
    const environmentMark = this.handsOver ? null : { name: VERSION_VARIABLE, value: this.#mark }
    const since = this.startTicks
    const signs = { since, before: this.#events.nextStart(since), sockets: this.#sockets }
    const left = LeftoverProcesses.ofGroup(pid, environmentMark, signs)
    if (ready.kind !== 'handoff' || this.#isReplaced) {
      this.#events.exited(code, left)
      return
    }
    // The main process may have handed over to a process that it started. This process, a subreaper, is now that one's parent.
    void servesAt(ready.control).then(server => {
      const wasOurs = !this.#closed && pid === this.#pid
      const isOther = server === null || server === pid || this.#events.isOthers(server)
      // The server may have ended since it answered.
      if (wasOurs && (isOther || !this.#setMainProcess(server))) this.#events.exited(code, left)
      else left[Symbol.dispose]()
    })
  }

  /** Returns false, and changes nothing, if the process has ended, does not end with this one, or its end cannot be noticed. */
  #setMainProcess(pid: number): boolean {
    if (this.#closed || pid === this.#pid || !endsWithUs(pid)) return false
    const pidfd = openPidfd(pid)
    if (pidfd === 'dead') return false
    if (pidfd !== null) {
      if (!this.#watchEnd(pid, pidfd)) return false
    } else if (!isChild(pid)) return false
    else this.#unwatch()
    this.#pid = pid
    this.#children.expect(pid, code => this.#exited(pid, code))
    return true
  }

  #resume({ pid, says, replaced }: InheritedVersion): void {
    this.statusText = says
    this.#isReplaced = replaced
    // While a version starts, no image is replaced.
    this.#hasServed = true
    this.startProbe()
    const found = openPidfd(pid)
    // The process ended and was reaped before the previous image handled its end.
    if (found === 'dead') {
      setImmediate(() => this.#exited(pid, UNKNOWN_CODE))
      return
    }
    this.#children.expect(pid, code => this.#exited(pid, code))
    if (found !== null) this.#watchEnd(pid, found)
  }

  /** Owns the pidfd. Returns false, and changes nothing, if the process cannot be watched: this process has no free descriptor. */
  #watchEnd(pid: number, pidfd: OwnedFd): boolean {
    let watch: DeathWatch
    try {
      watch = watchDeath(pidfd, () => {
        setTimeout(() => this.#exited(pid, UNKNOWN_CODE), REAPED_MS)
      })
    } catch {
      pidfd.close()
      return false
    }
    this.#unwatch()
    this.#watch = watch
    if (isChild(pid)) pidfd.close()
    else this.#pidfd = pidfd
    return true
  }

  #unwatch(): void {
    this.#watch?.close()
    this.#pidfd?.close()
    this.#watch = null
    this.#pidfd = null
  }
}

/** Whether this process reaps the other one, and so notices its end. */
function isChild(pid: number): boolean {
  return processStat(pid)?.parent === process.pid
}

/** Loads its module when it is first needed: the module imports half of the protocol. */
async function servesAt(control: string): Promise<number | null> {
  return await (await import('../versions/descendant-serves.js')).servingDescendant(control)
}

/** Ignores a process that has ended, or that this user may not signal. */
function signalOther(pid: number, signal: NodeJS.Signals): void {
  using pidfd = pidfdOfLiving(pid)
  if (pidfd !== null) trySignalTo(pidfd, constants.signals[signal])
}

/** Interval at which `endProcesses()` checks whether leftover processes have ended. */
const LEFTOVER_CHECK_MS = 20

export interface MainEnd {
  /** Whether the version was serving when its main process ended. */
  readonly served: boolean
  /** Time for leftover processes to end before they are killed. */
  readonly graceMs: number
}

interface RunningEvents {
  ready(version: number): void
  /** A ready version fails its health checks. */
  failed(version: number, why: string): void
  /** A failing version passes its health checks again. */
  recovered(version: number): void
  /** The main process has ended. `left`: pids of the version's other processes, which are told to end next. */
  mainEnded(version: number, code: number, left: readonly number[]): MainEnd
  /** The version has ended. A serving version ends with its main process, any other version with its last process. */
  exited(version: number, code: number): void
}

/** The versions that have a process, and their shared listeners. */
export class RunningVersions {
  readonly children = new ChildProcesses()
  readonly exits: Exits
  readonly listeners: SharedListeners
  /** Ids of replaced versions that hand over: they end by themselves, without a stop timeout. */
  readonly draining: Set<number>
  readonly #running = new Map<number, RunningVersion>()
  /** Processes that outlived their version's main process, with the version's id. As they may still accept, they are told to end, then killed. */
  readonly #leftovers = new Map<LeftoverProcesses, number>()
  readonly #events: RunningEvents
  readonly #control: string | null
  readonly #deathGuard: DeathGuard | null
  readonly #closed = new AbortController()

  constructor(
    events: RunningEvents,
    kept: StoredListeners,
    inherited: ExecState | null,
    predecessor: Pick<Predecessor, 'phase'> | null,
    control: string | null = null,
    guard: ListenerGuard | null = null,
    deathGuard: DeathGuard | null = null,
  ) {
    this.#deathGuard = deathGuard
    this.#control = control
    this.#events = events
    this.listeners = new SharedListeners(kept, inherited?.listeners, predecessor, guard)
    this.draining = new Set(inherited?.draining)
    this.exits = new Exits(inherited?.exits)
  }

  /** Returns the pids of a version: descendants of this process, without other versions' main processes and their descendants. */
  processesOf(id: number): number[] {
    const others = [...this.#running.values()].filter(other => other.id !== id).map(({ pid }) => pid)
    const isOthers = (pid: number) => others.some(other => descendsFrom(pid, other))
    return processes().filter(pid => endsWithUs(pid) && !isOthers(pid))
  }

  get(id: number): RunningVersion | undefined {
    return this.#running.get(id)
  }

  /** Starts or continues a version; see the constructor of {@link RunningVersion}. */
  run(
    id: number,
    settings: VersionSettings,
    probe: Probe,
    inherited: InheritedVersion | null = null,
  ): RunningVersion {
    const { children, listeners } = this
    const version = new RunningVersion(
      {
        ...{ id, settings, probe, children, listeners },
        alone: this.#running.size === 0,
        control: this.#control,
        deathGuard: this.#deathGuard,
      },
      {
        ready: () => this.#events.ready(id),
        failed: why => this.#events.failed(id, why),
        recovered: () => this.#events.recovered(id),
        exited: (code, left) => this.#exited(id, code, left),
        nextStart: ticks =>
          Math.min(
            ...[...this.#running.values()].map(({ startTicks }) => startTicks).filter(other => other > ticks),
          ),
        isOthers: pid =>
          [...this.#running.values()].some(other => other.id !== id && descendsFrom(pid, other.pid)),
      },
      inherited,
    )
    this.#running.set(id, version)
    return version
  }

  #exited(id: number, code: number, left: LeftoverProcesses): void {
    const version = this.#running.get(id)!
    const { pid, settings, startedAt } = version
    const result = version.resultOf(code)
    const { stopSignal } = settings
    const { pids } = left
    const { served, graceMs } = this.#events.mainEnded(id, code, pids)
    if (served) this.exits.record({ generation: id, pid, code }, startedAt)
    if (pids.length === 0) left[Symbol.dispose]()
    else void this.#endLeftovers(id, left, stopSignal, graceMs, served ? null : result)
    // If the version served, the next one starts without waiting for the end of the leftover processes.
    if (served || pids.length === 0) this.#events.exited(id, result)
  }

  /** Ends leftover processes; owns `left`. Then reports the version's end with code `result`, or nothing if that is null. */
  async #endLeftovers(
    version: number,
    left: LeftoverProcesses,
    signal: NodeJS.Signals,
    graceMs: number,
    result: number | null,
  ): Promise<void> {
    this.#leftovers.set(left, version)
    const givenUp = this.#closed.signal
    const options = {
      signal,
      graceMs,
      killedMs: Number.POSITIVE_INFINITY,
      lookMs: LEFTOVER_CHECK_MS,
      givenUp,
    }
    const ended = await endProcesses(left, options)
    left[Symbol.dispose]()
    this.#leftovers.delete(left)
    if (ended && result !== null) this.#events.exited(version, result)
  }

  get leftovers(): { readonly version: number; readonly pid: number }[] {
    return [...this.#leftovers].flatMap(([left, version]) => left.pids.map(pid => ({ version, pid })))
  }

  /** Continues with versions that the previous image started; `probes` are in the same order. */
  resume(versions: readonly InheritedVersion[], probes: readonly Probe[]): void {
    versions.forEach((inherited, i) => {
      this.run(inherited.id, inherited.settings, probes[i]!, inherited)
    })
  }

  applyReload({ stopSignal, stopTimeout, hooks }: ReloadableSettings): void {
    for (const version of this.#running.values())
      version.settings = { ...version.settings, stopSignal, stopTimeout, hooks: hooks ?? null }
  }

  /** Closes listeners that none of these versions uses. */
  keepListenersOf(ids: readonly number[]): void {
    this.listeners.keepOnly(ids.flatMap(id => this.#running.get(id)?.settings.listen ?? []))
  }

  /** Closes the listeners, unless a service manager keeps them because it restarts the unit. */
  async endListeners(): Promise<void> {
    if (!this.listeners.areStored || (await unitStops(this.children, this.#closed.signal)))
      this.listeners.end()
  }

  /** Kills the main process, its group, and leftover processes. */
  kill(id: number): void {
    this.#running.get(id)?.kill()
    this.#killLeftovers(id)
  }

  #killLeftovers(id: number | null): void {
    for (const [left, version] of this.#leftovers)
      if (id === null || version === id) left.signal(constants.signals.SIGKILL)
  }

  forget(id: number): void {
    this.#running.get(id)?.close()
    this.#running.delete(id)
    this.draining.delete(id)
  }

  get snapshot(): Pick<ExecState, 'draining' | 'exits' | 'listeners' | 'versions'> {
    return {
      exits: this.exits.report,
      draining: [...this.draining],
      listeners: this.listeners.held,
      versions: [...this.#running.values()].map(version => version.snapshot),
    }
  }

  /** Ends all but the reaping of children, which hooks may still need. */
  endAll(): void {
    this.#closed.abort()
    for (const id of [...this.#running.keys()]) this.forget(id)
    this.#killLeftovers(null)
    this.#deathGuard?.release()
    this.listeners[Symbol.dispose]()
  }

  close(): void {
    this.endAll()
    this.children.close()
  }
}
