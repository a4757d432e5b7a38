export type Phase =
  /** It is being started: it has no process yet. */
  | 'spawning'
  /** Its process runs, and has not said that it is ready. */
  | 'starting'
  /** It is ready, beside the one that serves, and is to prove itself. */
  | 'trial'
  | 'serving'
  /** It was told to end. */
  | 'stopping'
  | 'killed'

export interface Version {
  readonly id: number
  readonly phase: Phase
  /** Who waits for it to serve. */
  readonly askers: readonly number[]
  /** It is to be ended as soon as it has a process. */
  readonly doomed: boolean
  /** Its exit code is the supervisor's, also after it was told to end. */
  readonly relayed: boolean
  /** The earlier version that it is started as; null: it is started by the settings of its time. */
  readonly of: number | null
  /** It has served through its probation. */
  readonly proved: boolean
  /** It serves, and does not answer as it should. */
  readonly sick: boolean
  /** It was asked for, and is no restart of what served. */
  readonly wanted: boolean
}

export type Restart = 'never' | 'on-failure' | 'always'

export interface SupervisorState {
  readonly mode: 'running' | 'ending' | 'ended'
  readonly restart: Restart
  readonly versions: readonly Version[]
  /** Who wants another version after the one that is being brought to serve. */
  readonly next: readonly number[]
  /** How many versions were started. */
  readonly started: number
  /** Versions that ended, or failed, since one has proved itself. */
  readonly failures: number
  /** For the time between two starts. */
  readonly waiting: boolean
  /** The version as which the next one is started after that time; null: by the settings of that time. */
  readonly anew: number | null
  /** Versions that a version in probation is replaced by if it fails, the best first. */
  readonly good: readonly number[]
  /** The version that a rollback returns to; null: there is none. */
  readonly before: number | null
  /** Exit code of the version that served last; what the supervisor ends with. */
  readonly code: number
}

export type Timer = 'ready' | 'healthy' | 'proved' | 'stop' | 'kill'

/** Why a version is told to end. */
export type EndReason = 'replaced' | 'failed' | 'cancelled' | 'ending'

export type SupervisorEvent =
  | { readonly type: 'start' }
  | { readonly type: 'spawned' | 'spawn-failed' | 'ready'; readonly version: number }
  /** It is not ready and will not be, or has not kept what it promised when it was. `healthy`: it does so again. */
  | { readonly type: 'unhealthy' | 'healthy'; readonly version: number }
  | { readonly type: 'exited'; readonly version: number; readonly code: number }
  | { readonly type: 'elapsed'; readonly timer: Timer; readonly version: number }
  | { readonly type: 'rested' }
  /** `rollback`: the version before must serve again. */
  | { readonly type: 'upgrade' | 'rollback' | 'cancel'; readonly asker: number }
  /** `now`: without waiting for what they still do. */
  | { readonly type: 'stop'; readonly now: boolean }

export type SupervisorEffect =
  /** `of`: as this earlier version was started. */
  | { readonly type: 'spawn'; readonly version: number; readonly of?: number }
  /** Finds out when it is ready, and while it is on trial whether it still is. */
  | { readonly type: 'watch'; readonly version: number }
  | { readonly type: 'wait'; readonly timer: Timer; readonly version: number }
  /** Before the next start, after so many failures. */
  | { readonly type: 'rest'; readonly failures: number }
  /** It serves now. */
  | { readonly type: 'promote'; readonly version: number }
  | { readonly type: 'end'; readonly version: number; readonly why: EndReason }
  | { readonly type: 'kill'; readonly version: number }
  /** `version` null: none was started for them. */
  | {
      readonly type: 'answer'
      readonly askers: readonly number[]
      readonly version: number | null
      readonly outcome: 'serving' | 'failed' | 'cancelled' | 'ending'
    }
  | { readonly type: 'exit'; readonly code: number }

export interface Step {
  readonly state: SupervisorState
  readonly effects: readonly SupervisorEffect[]
}

export function initial(restart: Restart = 'never'): SupervisorState {
  return {
    mode: 'running',
    restart,
    versions: [],
    next: [],
    started: 0,
    failures: 0,
    waiting: false,
    anew: null,
    good: [],
    before: null,
    code: 0,
  }
}

/** As an image before has left it; one of an earlier release knows nothing of probation. `timers`: what is left of them, by name and version. */
export function resumed(left: SupervisorState, timers: Readonly<Record<string, number>>): SupervisorState {
  const versions = left.versions.map(version => ({
    ...version,
    of: version.of ?? null,
    proved: version.proved ?? timers[`proved ${version.id}`] === undefined,
    sick: version.sick ?? false,
    wanted: version.wanted ?? false,
  }))
  const proved = versions.find(({ phase, proved }) => phase === 'serving' && proved)
  const good = left.good ?? (proved ? [proved.id] : [])
  return { ...left, versions, anew: left.anew ?? null, good, before: left.before ?? null }
}

/** The version that is being brought to serve. */
export function coming({ versions }: SupervisorState): Version | undefined {
  return versions.find(({ phase }) => phase === 'spawning' || phase === 'starting' || phase === 'trial')
}

export function serving({ versions }: SupervisorState): Version | undefined {
  return versions.find(({ phase }) => phase === 'serving')
}

/** What one step changes. */
export class Draft {
  mode: SupervisorState['mode']
  started: number
  failures: number
  waiting: boolean
  anew: number | null
  good: readonly number[]
  before: number | null
  code: number
  next: readonly number[]
  versions: readonly Version[]
  readonly effects: SupervisorEffect[] = []
  readonly #before: SupervisorState

  constructor(before: SupervisorState) {
    this.#before = before
    this.mode = before.mode
    this.started = before.started
    this.failures = before.failures
    this.waiting = before.waiting
    this.anew = before.anew
    this.good = before.good
    this.before = before.before
    this.code = before.code
    this.next = before.next
    this.versions = before.versions
  }

  get restart(): Restart {
    return this.#before.restart
  }

  get coming(): Version | undefined {
    return coming(this.done().state)
  }

  get serving(): Version | undefined {
    return serving(this.done().state)
  }

  is(id: number, ...phases: readonly Phase[]): Version | undefined {
    return this.versions.find(version => version.id === id && phases.includes(version.phase))
  }

  change(id: number, change: Partial<Version>): void {
    this.versions = this.versions.map(version => (version.id === id ? { ...version, ...change } : version))
  }

  remove(id: number): void {
    this.versions = this.versions.filter(version => version.id !== id)
  }

  answer(
    askers: readonly number[],
    version: number | null,
    outcome: 'serving' | 'failed' | 'cancelled' | 'ending',
  ): void {
    if (askers.length > 0) this.effects.push({ type: 'answer', askers, version, outcome })
  }

  done(): Step {
    const { mode, restart, versions, next, started, failures, waiting, anew, good, before, code } = this
    return {
      state: { mode, restart, versions, next, started, failures, waiting, anew, good, before, code },
      effects: this.effects,
    }
  }
}
