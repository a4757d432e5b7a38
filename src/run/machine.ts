/**
 * Decides which version of a supervised program is started, serves and is stopped: a pure function from state and event to
 * state and effects. It knows no clock and no process. An effect may fail, be late or never be answered; what is told of a version
 * that is past it changes nothing.
 */

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
class Draft {
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

/** Exit code where no version was brought to serve, and none says by its own that it failed: 0 is no success then. */
const FAILED_CODE = 1

export function step(state: SupervisorState, event: SupervisorEvent): Step {
  const draft = new Draft(state)
  const asks = event.type === 'upgrade' || event.type === 'rollback'
  if (state.mode !== 'ended' || asks) take(draft, event)
  return draft.done()
}

function take(draft: Draft, event: SupervisorEvent): void {
  switch (event.type) {
    case 'start':
      if (draft.started === 0) launch(draft, [])
      return
    case 'spawned':
      spawned(draft, event.version)
      return
    case 'spawn-failed':
      if (draft.is(event.version, 'spawning')) gone(draft, event.version, FAILED_CODE)
      return
    case 'ready':
      ready(draft, event.version)
      return
    case 'unhealthy':
      unhealthy(draft, event.version)
      return
    case 'healthy':
      healthy(draft, event.version)
      return
    case 'exited':
      gone(draft, event.version, event.code)
      return
    case 'elapsed':
      elapsed(draft, event.timer, event.version)
      return
    case 'rested':
      if (draft.waiting && draft.mode === 'running') launch(draft, [], draft.anew)
      return
    case 'upgrade':
      upgrade(draft, event.asker)
      return
    case 'rollback':
      rollback(draft, event.asker)
      return
    case 'cancel':
      cancel(draft, event.asker)
      return
    case 'stop':
      stop(draft, event.now)
  }
}

function launch(draft: Draft, askers: readonly number[], of: number | null = null): void {
  const id = ++draft.started
  draft.waiting = false
  const wanted = of === null && askers.length > 0
  const fresh = { doomed: false, relayed: false, proved: false, sick: false, wanted }
  draft.versions = [...draft.versions, { id, phase: 'spawning', askers, of, ...fresh }]
  draft.effects.push(of === null ? { type: 'spawn', version: id } : { type: 'spawn', version: id, of })
}

function spawned(draft: Draft, id: number): void {
  const version = draft.is(id, 'spawning')
  if (version === undefined) return
  draft.change(id, { phase: 'starting' })
  if (version.doomed) {
    if (draft.mode === 'running') giveUp(draft, id, 'cancelled')
    else end(draft, id, 'ending')
    return
  }
  draft.effects.push({ type: 'watch', version: id }, { type: 'wait', timer: 'ready', version: id })
}

function ready(draft: Draft, id: number): void {
  const version = draft.is(id, 'starting')
  if (version === undefined) return
  // No version is stopped for it, or one that fails: what it has to prove it may prove while it serves.
  if (draft.serving === undefined || draft.serving.sick || version.of !== null) {
    promote(draft, id)
    return
  }
  draft.change(id, { phase: 'trial' })
  draft.effects.push({ type: 'wait', timer: 'healthy', version: id })
}

function promote(draft: Draft, id: number): void {
  const before = draft.serving
  const { askers = [], of = null, wanted = false } = draft.is(id, 'starting', 'trial') ?? {}
  draft.change(id, { phase: 'serving', askers: [] })
  draft.effects.push({ type: 'promote', version: id }, { type: 'wait', timer: 'proved', version: id })
  draft.answer(askers, id, 'serving')
  if (before !== undefined) {
    // A version that is left for the version before is not good.
    if (!before.proved && !before.sick && of === null) draft.good = [before.id, ...draft.good.slice(-1)]
    end(draft, before.id, before.sick ? 'failed' : 'replaced')
  }
  if (of !== null) draft.before = null
  else if (wanted) draft.before = draft.good[0] ?? null
  goOn(draft)
}

/** A version that serves goes on until the version in its place is ready: it may be better than none. */
function unhealthy(draft: Draft, id: number): void {
  const version = draft.is(id, 'serving')
  if (version === undefined) {
    giveUp(draft, id, 'failed')
    return
  }
  if (version.sick || draft.mode !== 'running') return
  draft.change(id, { sick: true })
  if (draft.coming === undefined) replace(draft, version, FAILED_CODE)
}

function healthy(draft: Draft, id: number): void {
  const version = draft.is(id, 'serving')
  if (version === undefined || !version.sick) return
  draft.change(id, { sick: false })
  draft.waiting = false
  if (!version.proved) draft.effects.push({ type: 'wait', timer: 'proved', version: id })
}

/** Ends a version that does not serve yet. Its askers hear of a failure when it has ended: no client meets it then. */
function giveUp(draft: Draft, id: number, why: 'failed' | 'cancelled'): void {
  const version = draft.is(id, 'starting', 'trial')
  if (version === undefined) return
  if (why === 'cancelled') {
    draft.answer(version.askers, id, why)
    draft.change(id, { askers: [] })
  }
  end(draft, id, why)
  lost(draft, version, FAILED_CODE)
}

function end(draft: Draft, id: number, why: EndReason): void {
  draft.change(id, { phase: 'stopping' })
  draft.effects.push({ type: 'end', version: id, why }, { type: 'wait', timer: 'stop', version: id })
}

function kill(draft: Draft, id: number): void {
  draft.change(id, { phase: 'killed' })
  draft.effects.push({ type: 'kill', version: id }, { type: 'wait', timer: 'kill', version: id })
}

/** It has no process any more, or none that anything could be done about. */
function gone(draft: Draft, id: number, code: number): void {
  const version = draft.versions.find(one => one.id === id)
  if (version === undefined) return
  draft.remove(id)
  draft.answer(version.askers, id, version.doomed ? 'cancelled' : 'failed')
  const { phase } = version
  if (version.relayed) draft.code = code
  if (phase === 'serving') {
    draft.code = code
    // It was on trial beside one that is dead: there is nothing to choose between any more.
    const next = draft.coming
    if (next?.phase === 'trial') {
      draft.failures++
      promote(draft, next.id)
      return
    }
    lost(draft, version, code)
  } else if (phase !== 'stopping' && phase !== 'killed') {
    lost(draft, version, code || FAILED_CODE)
  }
  finish(draft)
}

/** One that served, or was to, does not any more. */
function lost(draft: Draft, version: Version, code: number): void {
  if (draft.mode !== 'running') return
  const now = draft.serving
  if ((now !== undefined && !now.sick) || draft.coming !== undefined) {
    goOn(draft)
    return
  }
  if (now === undefined) draft.code = code
  if (draft.next.length > 0) {
    draft.failures++
    goOn(draft)
  } else if (!replace(draft, version, code) && now === undefined) {
    draft.mode = 'ending'
    finish(draft)
  }
}

/**
 * Starts a version in place of one that failed: at once the version before, if it failed in its probation or before it served; else
 * after a rest, if the restart policy says so. False: none is started.
 */
function replace(draft: Draft, failed: Version, code: number): boolean {
  draft.failures++
  const wasKnown = failed.of !== null && failed.of === draft.good[0]
  // The version before does not serve either: there may be one before it.
  if (wasKnown && !failed.proved && draft.good.length > 1) draft.good = draft.good.slice(1)
  const [best = null] = draft.good
  if (!failed.proved && best !== null && failed.of !== best) {
    launch(draft, [], best)
    return true
  }
  if (draft.restart === 'never' || (draft.restart === 'on-failure' && code === 0)) return false
  draft.waiting = true
  draft.anew = failed.proved && failed.of === null ? null : best
  draft.effects.push({ type: 'rest', failures: draft.failures })
  return true
}

/** Whoever asked meanwhile has the next version. */
function goOn(draft: Draft): void {
  if (draft.mode !== 'running' || draft.next.length === 0 || draft.coming !== undefined) return
  const askers = draft.next
  draft.next = []
  launch(draft, askers)
}

function finish(draft: Draft): void {
  if (draft.mode !== 'ending' || draft.versions.length > 0) return
  draft.mode = 'ended'
  draft.effects.push({ type: 'exit', code: draft.code })
}

function elapsed(draft: Draft, timer: Timer, id: number): void {
  switch (timer) {
    case 'ready':
      if (draft.is(id, 'starting')) giveUp(draft, id, 'failed')
      return
    case 'healthy':
      if (draft.is(id, 'trial')) promote(draft, id)
      return
    case 'proved':
      prove(draft, id)
      return
    case 'stop':
      if (draft.is(id, 'stopping')) kill(draft, id)
      return
    case 'kill':
      // It waits in the kernel, which ends it some day.
      if (draft.is(id, 'killed')) gone(draft, id, draft.code)
  }
}

function prove(draft: Draft, id: number): void {
  const version = draft.is(id, 'serving')
  if (version === undefined || version.sick) return
  draft.failures = 0
  draft.change(id, { proved: true })
  draft.good = [id]
}

function upgrade(draft: Draft, asker: number): void {
  if (draft.mode !== 'running') draft.answer([asker], null, 'ending')
  else if (draft.coming === undefined) launch(draft, [asker])
  else draft.next = [...draft.next, asker]
}

/** The version that serves goes on until the version before is ready. */
function rollback(draft: Draft, asker: number): void {
  const { before, coming: next } = draft
  if (draft.mode !== 'running') draft.answer([asker], null, 'ending')
  else if (next !== undefined && next.of !== null) draft.change(next.id, { askers: [...next.askers, asker] })
  else if (next !== undefined || before === null || draft.serving === undefined)
    draft.answer([asker], null, 'cancelled')
  else launch(draft, [asker], before)
}

function cancel(draft: Draft, asker: number): void {
  const others = (askers: readonly number[]) => askers.filter(one => one !== asker)
  if (draft.next.includes(asker)) {
    draft.next = others(draft.next)
    draft.answer([asker], null, 'cancelled')
    return
  }
  const version = draft.coming
  if (!version?.askers.includes(asker)) return
  // What nobody else wants, and nothing would be lost without.
  const { serving: now } = draft
  if (version.askers.length > 1 || now === undefined || (now.sick && version.of !== null)) {
    draft.change(version.id, { askers: others(version.askers) })
    draft.answer([asker], version.id, 'cancelled')
  } else if (version.phase === 'spawning') draft.change(version.id, { doomed: true })
  else giveUp(draft, version.id, 'cancelled')
}

function stop(draft: Draft, now: boolean): void {
  if (draft.mode === 'running') {
    draft.mode = 'ending'
    draft.waiting = false
    draft.answer(draft.next, null, 'ending')
    draft.next = []
    const last = draft.serving ?? draft.coming
    for (const { id, phase, askers } of draft.versions) {
      draft.change(id, { relayed: id === last?.id })
      if (phase === 'stopping' || phase === 'killed') continue
      draft.answer(askers, id, 'ending')
      draft.change(id, { askers: [] })
      if (phase === 'spawning') draft.change(id, { doomed: true })
      else end(draft, id, 'ending')
    }
  }
  if (now) for (const { id, phase } of draft.versions) if (phase === 'stopping') kill(draft, id)
  finish(draft)
}
