import { constants } from 'node:os'
import { FdbError } from '../errors.js'
import { hasEnded, inspectOne, OwnedFd, signalTo } from '../kernel/index.js'
import { successorCommand } from '../os/command-line.js'
import { type DeathWatch, openPidfd, watchDeath } from '../os/liveness.js'
import { endsWithUs, statOf } from '../os/main-process.js'
import { ChildProcesses } from '../versions/child-processes.js'
import { LastWords } from '../versions/last-words.js'
import type { Probe, ProbeEvents } from '../versions/probe.js'
import { endProcesses, GRACE_MS, ProcessMembers } from '../versions/process-members.js'
import { startedWith } from '../versions/successor-output.js'
import type { ExecState, LeftVersion } from './exec-state.js'
import { Exits } from './failures.js'
import type { Predecessor } from './predecessor.js'
import type { Ending, VersionSettings } from './settings.js'
import {
  type KeptListeners,
  listenerVariables,
  PID_VARIABLE,
  SharedListeners,
  unitStops,
  VERSION_VARIABLE,
} from './shared-listeners.js'

/** The exit code of a process that another process reaped. */
const UNKNOWN_CODE = 1
/** Our own reaping tells the code, and comes first where the process is our child. */
const REAPED_MS = 500

export interface VersionDeps {
  readonly id: number
  readonly settings: VersionSettings
  readonly probe: Probe
  readonly children: Pick<ChildProcesses, 'expect' | 'forget' | 'kill' | 'signal' | 'start'>
  readonly listeners: SharedListeners
  /** No other version has a process. */
  readonly alone: boolean
  /** Beside it stands what the version says at its end; null: it says nothing. */
  readonly control?: string | null
}

export interface VersionEvents extends Omit<ProbeEvents, 'mainProcess' | 'says'> {
  /** The main process has ended, and these processes of the version have not. The callee owns `left`. */
  exited(code: number, left: ProcessMembers): void
  /** Whether this process is another version's. */
  isOthers(pid: number): boolean
  /** When the next version that lives was started, in ticks of the kernel's clock; infinite: none was. */
  nextStart(ticks: number): number
}

/** One version from its start to its end: its main process, which may hand over to another that it has started. */
export class RunningVersion {
  readonly id: number
  settings: VersionSettings
  readonly startedAt: number
  /** Its own status text. */
  says = ''
  readonly #children: VersionDeps['children']
  readonly #probe: Probe
  readonly #events: VersionEvents
  /** Until it is proved, or is told to end. */
  readonly #words: LastWords | null
  #pid: number
  #watch: DeathWatch | null = null
  /** The pidfd of a main process that is no child of ours: its parent reaps it without telling us, and its number may be another's then. */
  #pidfd: OwnedFd | null = null
  #isReplaced = false
  #hasServed = false
  /** The signals by which it was told to end. */
  readonly #told = new Set<number>()
  /** When its main process was started, in ticks of the kernel's clock. */
  readonly startTicks: number
  /** The listeners that it was given: `socket:[4711]`. */
  readonly #sockets: ReadonlySet<string>
  #over = false

  /** Starts it; `was`: goes on with a living one. Throws ERR_FDB_SPAWN, ERR_FDB_NO_BINARY, ERR_FDB_NO_CWD, bind errors. Owns the probe. */
  constructor(
    { id, settings, probe, children, listeners, alone, control = null }: VersionDeps,
    events: VersionEvents,
    was: LeftVersion | null = null,
  ) {
    this.id = id
    this.settings = settings
    this.startedAt = was?.startedAt ?? Date.now()
    this.#children = children
    this.#probe = probe
    this.#events = events
    this.#words = was === null && control !== null ? new LastWords(control) : null
    try {
      this.#pid = was?.pid ?? this.#start(listeners, alone)
    } catch (error) {
      probe[Symbol.dispose]()
      this.#words?.close()
      throw error
    }
    this.startTicks = statOf(this.#pid)?.startTicks ?? Number.POSITIVE_INFINITY
    this.#sockets = new Set(listeners.held.map(({ fd }) => `socket:[${inspectOne(fd).ino}]`))
    if (was !== null) this.#goOn(was)
  }

  /** The state that another program needs to go on with it. */
  get left(): LeftVersion {
    const { id, pid, settings, startedAt, says } = this
    return {
      id,
      pid,
      settings,
      startedAt,
      says,
      replaced: this.#isReplaced,
      hearing: this.#probe.hearing ?? null,
      place: this.#probe.place,
    }
  }

  /** The pid of its main process. */
  get pid(): number {
    return this.#pid
  }

  /** Speaks fd-broker itself: it knows when it has nothing left to do. */
  get handsOver(): boolean {
    return this.settings.ready.kind === 'handoff'
  }

  /** Why it is not ready, as it answered last; null: it was not asked, or said nothing against it. */
  get complaint(): string | null {
    return this.#probe.complaint
  }

  /** As {@link LastWords} has it. */
  takeReason(): ReturnType<LastWords['takeReason']> {
    return this.#words?.takeReason() ?? { why: 'see its own output', lines: null }
  }

  /** Its last lines on stderr; null: there are none, or it is no program of Node. There are so once. */
  takeLines(): string | null {
    return this.#words?.takeLines() ?? null
  }

  /** It is looked at whether it is ready. */
  watch(): void {
    this.#probe.start(this.#pid, {
      ready: () => this.#events.ready(),
      failed: why => this.#events.failed(why),
      recovered: () => this.#events.recovered(),
      says: text => {
        this.says = text
      },
      mainProcess: pid => this.#follow(pid),
    })
  }

  /** A question to it waits for its answer. */
  get isAsked(): boolean {
    return this.#probe.isOpen
  }

  /** It is asked as long as it serves. */
  get isJudged(): boolean {
    return this.#probe.asksServing
  }

  /** It serves: it is judged on, where it can be asked. */
  serves(): void {
    this.#hasServed = true
    this.#words?.close()
    this.#probe.serves()
  }

  /** It has served through its probation. */
  proved(): void {
    this.#probe.proved()
    this.#words?.close()
  }

  /** It is told to end: it is not judged any longer. `failed`: the version before goes on, and must soon be the only one that answers. */
  settle(failed: boolean): void {
    this.#probe.settle()
    this.#words?.close()
    const stopTimeout = Math.min(this.settings.stopTimeout, GRACE_MS)
    if (failed && !this.#hasServed) this.settings = { ...this.settings, stopTimeout }
  }

  /** Another version serves in its place: it has no successor of its own any more. */
  replaced(): void {
    this.#isReplaced = true
  }

  /** Its exit code as a result: 0 of one that was told to end by a signal, and ended by that. */
  resultOf(code: number): number {
    return this.#told.has(code - 128) ? 0 : code
  }

  /** `all`: with the process that serves in place of the main process, if there is one. */
  tellToEnd(signal: NodeJS.Signals, all: boolean): void {
    this.#told.add(constants.signals[signal])
    if (all) void this.#signalAll(signal)
    else this.signal(signal)
  }

  signal(signal: NodeJS.Signals): void {
    if (this.#pidfd === null) this.#children.signal(this.#pid, signal)
    else signalBy(this.#pidfd, signal)
  }

  /** Signals its main process, and the process that serves in that one's place. */
  async #signalAll(signal: NodeJS.Signals): Promise<void> {
    this.signal(signal)
    const { ready } = this.settings
    if (ready.kind !== 'handoff' || this.#isReplaced) return
    const server = await servesAt(ready.control)
    if (server !== null && server !== this.#pid && !this.#events.isOthers(server)) signalOther(server, signal)
  }

  kill(): void {
    if (this.#pidfd === null || !hasEnded(this.#pidfd)) this.#children.kill(this.#pid)
  }

  /** Its end is not awaited any more. Idempotent. */
  close(): void {
    this.#over = true
    this.#watch?.close()
    this.#pidfd?.close()
    this.#children.forget(this.#pid)
    this.#words?.close()
    this.#probe[Symbol.dispose]()
  }

  #start(shared: SharedListeners, alone: boolean): number {
    const { settings } = this
    const provided = shared.provide(settings.listen, settings.nonBlocking, alone)
    const listeners = [...provided, ...this.#probe.listeners]
    const variables = {
      ...listenerVariables(listeners, this.id),
      [VERSION_VARIABLE]: this.#mark,
      ...this.#probe.env,
      ...settings.env,
    }
    const { file, argv0, args, cwd, env } = successorCommand({
      argv: settings.command,
      cwd: settings.cwd,
      env: variables,
    })
    const start = {
      file,
      cwd,
      argv: [argv0, ...args],
      env: this.#words === null ? env : startedWith({ ...env, ...this.#words.env }),
      ...(listeners.length > 0 && { pidVariable: PID_VARIABLE }),
      fds: [...listeners.map(({ fd }) => fd), ...this.#probe.fds],
      deathSignal: settings.survive ? 0 : constants.signals.SIGKILL,
    }
    try {
      const pid = this.#children.start(start, code => this.#exited(pid, code))
      return pid
    } catch (cause) {
      const { code = String(cause) } = cause as NodeJS.ErrnoException
      const message = `cannot start ${file} in ${cwd} (${code}): check that it is executable and that the process limit is not reached`
      throw new FdbError('ERR_FDB_SPAWN', message, { cause, details: { file, cwd } })
    }
  }

  get #mark(): string {
    return `${process.pid}.${this.id}.${this.startedAt}`
  }

  #exited(pid: number, code: number): void {
    if (this.#over || pid !== this.#pid) return
    const { ready } = this.settings
    // A version that hands over by itself leaves older generations behind that end by themselves: only its group is its own.
    const mark = this.handsOver ? null : { name: VERSION_VARIABLE, value: this.#mark }
    const since = this.startTicks
    const signs = { since, before: this.#events.nextStart(since), sockets: this.#sockets }
    const left = ProcessMembers.ofGroup(pid, mark, signs)
    if (ready.kind !== 'handoff' || this.#isReplaced) {
      this.#events.exited(code, left)
      return
    }
    // It may have handed over to one that it has started, and that is ours by now.
    void servesAt(ready.control).then(server => {
      const wasOurs = !this.#over && pid === this.#pid
      if (wasOurs && (server === null || server === pid || this.#events.isOthers(server))) {
        this.#events.exited(code, left)
        return
      }
      left[Symbol.dispose]()
      if (wasOurs) this.#follow(server!)
    })
  }

  /** Another process is its main process from now on. */
  #follow(pid: number): void {
    if (this.#over || pid === this.#pid || !endsWithUs(pid)) return
    const pidfd = openOwn(pid)
    if (pidfd === null) return
    this.#pid = pid
    this.#children.expect(pid, code => this.#exited(pid, code))
    this.#watchEnd(pid, pidfd)
  }

  #goOn({ pid, says, replaced }: LeftVersion): void {
    this.says = says
    this.#isReplaced = replaced
    this.watch()
    const found = openPidfd(pid)
    // The image before was about to be told, or asked who serves in its place: it is reaped, and its number may be a stranger's soon.
    if (found === 'dead') {
      setImmediate(() => this.#exited(pid, UNKNOWN_CODE))
      return
    }
    this.#children.expect(pid, code => this.#exited(pid, code))
    if (found !== null) this.#watchEnd(pid, found)
  }

  /** Takes the pidfd. */
  #watchEnd(pid: number, pidfd: OwnedFd): void {
    this.#watch?.close()
    this.#pidfd?.close()
    this.#pidfd = pidfd
    this.#watch = watchDeath(pidfd, () => {
      setTimeout(() => this.#exited(pid, UNKNOWN_CODE), REAPED_MS)
    })
    if (statOf(pid)?.parent !== process.pid) return
    pidfd.close()
    this.#pidfd = null
  }
}

/** Loaded where it is needed: it is half of the protocol. */
async function servesAt(control: string): Promise<number | null> {
  return await (await import('../versions/serves-under.js')).servesForUs(control)
}

/** One that has ended, or is another user's by now, is not. */
function signalOther(pid: number, signal: NodeJS.Signals): void {
  using pidfd = openOwn(pid)
  if (pidfd !== null) signalBy(pidfd, signal)
}

function signalBy(pidfd: OwnedFd, signal: NodeJS.Signals): void {
  try {
    signalTo(pidfd, constants.signals[signal])
  } catch {
    // It has ended meanwhile.
  }
}

function openOwn(pid: number): OwnedFd | null {
  const pidfd = openPidfd(pid)
  return pidfd instanceof OwnedFd ? pidfd : null
}

/** How often the processes that a version has left behind are looked at. */
const LOOK_MS = 20

/** Processes that a version's main process has left behind. They may still accept, so they are told to end, then killed. */
interface Stray {
  readonly version: number
  readonly members: ProcessMembers
}

export interface MainEnd {
  /** It served until now. */
  readonly served: boolean
  /** How long the processes that it has left behind may take to end. */
  readonly graceMs: number
}

interface RunningEvents {
  ready(version: number): void
  /** It is not ready any more, and was. */
  failed(version: number, why: string): void
  /** It is ready again. */
  recovered(version: number): void
  /** Its main process has ended, and left these processes behind, which are told to end. */
  mainEnded(version: number, code: number, left: readonly number[]): MainEnd
  /** The version has ended: a version that served with its main process, every other with its last process. */
  exited(version: number, code: number): void
}

/** Those versions that have a process, with what they share. */
export class RunningVersions {
  readonly children = new ChildProcesses()
  readonly exits: Exits
  readonly listeners: SharedListeners
  /** Versions that know themselves when they have served out what they have. */
  readonly draining: Set<number>
  readonly #running = new Map<number, RunningVersion>()
  readonly #strays = new Set<Stray>()
  readonly #events: RunningEvents
  readonly #control: string | null
  readonly #closed = new AbortController()

  constructor(
    events: RunningEvents,
    kept: KeptListeners,
    left: ExecState | null,
    predecessor: Pick<Predecessor, 'phase'> | null,
    control: string | null = null,
  ) {
    this.#control = control

    this.#events = events
    this.listeners = new SharedListeners(kept, left?.listeners, predecessor)
    this.draining = new Set(left?.draining)
    this.exits = new Exits(left?.exits)
  }

  get(id: number): RunningVersion | undefined {
    return this.#running.get(id)
  }

  /** As {@link RunningVersion} does it. */
  run(id: number, settings: VersionSettings, probe: Probe, was: LeftVersion | null = null): RunningVersion {
    const { children, listeners } = this
    const version = new RunningVersion(
      {
        ...{ id, settings, probe, children, listeners },
        alone: this.#running.size === 0,
        control: this.#control,
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
        isOthers: pid => [...this.#running.values()].some(other => other.id !== id && other.pid === pid),
      },
      was,
    )
    this.#running.set(id, version)
    return version
  }

  #exited(id: number, code: number, left: ProcessMembers): void {
    const version = this.#running.get(id)!
    const { pid, settings, startedAt } = version
    const result = version.resultOf(code)
    const { stopSignal } = settings
    const { pids } = left
    const { served, graceMs } = this.#events.mainEnded(id, code, pids)
    if (served) this.exits.record({ generation: id, pid, code }, startedAt)
    if (pids.length === 0) left[Symbol.dispose]()
    else void this.#endStrays({ version: id, members: left }, stopSignal, graceMs, served ? null : result)
    // The next version is started at once in place of one that served.
    if (served || pids.length === 0) this.#events.exited(id, result)
  }

  /** Owns the members. `result`: the version has ended with the last of them; null: it has ended before. */
  async #endStrays(
    stray: Stray,
    signal: NodeJS.Signals,
    graceMs: number,
    result: number | null,
  ): Promise<void> {
    const { members, version } = stray
    this.#strays.add(stray)
    const givenUp = this.#closed.signal
    const options = { signal, graceMs, killedMs: Number.POSITIVE_INFINITY, lookMs: LOOK_MS, givenUp }
    const ended = await endProcesses(members, options)
    members[Symbol.dispose]()
    this.#strays.delete(stray)
    if (ended && result !== null) this.#events.exited(version, result)
  }

  /** Processes that versions have left behind. */
  get strays(): { readonly version: number; readonly pid: number }[] {
    return [...this.#strays].flatMap(({ version, members }) => members.pids.map(pid => ({ version, pid })))
  }

  /** With those that live already; the probes are theirs, in the same order. */
  goOn(versions: readonly LeftVersion[], probes: readonly Probe[]): void {
    versions.forEach((was, i) => {
      this.run(was.id, was.settings, probes[i]!, was)
    })
  }

  /** How all of them are told to end from now on. */
  adjust({ stopSignal, stopTimeout }: Ending): void {
    for (const version of this.#running.values())
      version.settings = { ...version.settings, stopSignal, stopTimeout }
  }

  /** Listeners that none of these versions wants are let go of. */
  keepListenersOf(ids: readonly number[]): void {
    this.listeners.keepOnly(ids.flatMap(id => this.#running.get(id)?.settings.listen ?? []))
  }

  /** The service ends: its listeners too, but where the unit is started again. */
  async endListeners(): Promise<void> {
    if (!this.listeners.areKept || (await unitStops(this.children, this.#closed.signal))) this.listeners.end()
  }

  /** Kills its main process, with its group, and what that has left behind. */
  kill(id: number): void {
    this.#running.get(id)?.kill()
    this.#killStrays(id)
  }

  #killStrays(id: number | null): void {
    for (const { members, version } of this.#strays)
      if (id === null || version === id) members.signal(constants.signals.SIGKILL)
  }

  /** Its end is not awaited any more. */
  forget(id: number): void {
    this.#running.get(id)?.close()
    this.#running.delete(id)
    this.draining.delete(id)
  }

  get left(): Pick<ExecState, 'draining' | 'exits' | 'listeners' | 'versions'> {
    return {
      exits: this.exits.report,
      draining: [...this.draining],
      listeners: this.listeners.held,
      versions: [...this.#running.values()].map(version => version.left),
    }
  }

  close(): void {
    this.#closed.abort()
    for (const id of [...this.#running.keys()]) this.forget(id)
    this.#killStrays(null)
    this.listeners[Symbol.dispose]()
    this.children.close()
  }
}
