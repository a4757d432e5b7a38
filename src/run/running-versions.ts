import type { ProcessMembers } from '../versions/process-members.js'
import { Children } from './children.js'
import { Exits } from './exits.js'
import type { KeptListeners } from './kept-listeners.js'
import type { LeftBehind, LeftVersion } from './left-behind.js'
import type { Ending } from './next-settings.js'
import type { Predecessor } from './predecessor.js'
import type { Probe } from './probe.js'
import { RunningVersion } from './running-version.js'
import type { VersionSettings } from './settings.js'
import { SharedListeners } from './shared-listeners.js'
import { Strays } from './strays.js'
import { unitStops } from './unit-job.js'

/** A version whose main process has ended. */
export interface MainEnd {
  /** It served until now. */
  readonly served: boolean
  /** How long the processes that it has left behind may take to end. */
  readonly graceMs: number
}

export interface RunningEvents {
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
  readonly children = new Children()
  readonly strays = new Strays()
  readonly exits: Exits
  readonly listeners: SharedListeners
  /** Versions that know themselves when they have served out what they have. */
  readonly draining: Set<number>
  readonly #running = new Map<number, RunningVersion>()
  readonly #events: RunningEvents
  readonly #control: string | null
  readonly #closed = new AbortController()

  constructor(
    events: RunningEvents,
    kept: KeptListeners,
    left: LeftBehind | null,
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
    if (served) this.exits.note({ generation: id, pid, code }, startedAt)
    if (pids.length === 0) left[Symbol.dispose]()
    else {
      this.strays.end(id, left, stopSignal, graceMs, () => {
        if (!served) this.#events.exited(id, result)
      })
    }
    // The next version is started at once in place of one that served.
    if (served || pids.length === 0) this.#events.exited(id, result)
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
    this.strays.kill(id)
  }

  /** Nobody waits for its end any more. */
  forget(id: number): void {
    this.#running.get(id)?.close()
    this.#running.delete(id)
    this.draining.delete(id)
  }

  get left(): Pick<LeftBehind, 'draining' | 'exits' | 'listeners' | 'versions'> {
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
    this.strays.close()
    this.listeners[Symbol.dispose]()
    this.children.close()
  }
}
