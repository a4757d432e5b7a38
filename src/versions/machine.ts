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
  /** The clients that wait for it to serve. */
  readonly askers: readonly number[]
  /** It must be ended as soon as it has a process. */
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
  /** The clients that want another version after the candidate. */
  readonly next: readonly number[]
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

export type EndReason = 'replaced' | 'failed' | 'cancelled' | 'ending'

export type SupervisorEvent =
  | { readonly type: 'start' }
  | { readonly type: 'spawned' | 'spawn-failed' | 'ready'; readonly version: number }
  /** It is not ready and will not be, or has not kept what it promised when it was. `healthy`: it does so again. */
  | { readonly type: 'unhealthy' | 'healthy'; readonly version: number }
  | { readonly type: 'exited'; readonly version: number; readonly code: number }
  | { readonly type: 'elapsed'; readonly timer: Timer; readonly version: number }
  | { readonly type: 'backed-off' }
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
  | { readonly type: 'back-off'; readonly failures: number }
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

/** The version that is being brought to serve. */
export function candidate({ versions }: SupervisorState): Version | undefined {
  return versions.find(({ phase }) => phase === 'spawning' || phase === 'starting' || phase === 'trial')
}

export function serving({ versions }: SupervisorState): Version | undefined {
  return versions.find(({ phase }) => phase === 'serving')
}

/** The state that one step changes, and its effects. */
type Draft = { -readonly [K in keyof SupervisorState]: SupervisorState[K] } & { effects: SupervisorEffect[] }

function is({ versions }: Draft, id: number, ...phases: readonly Phase[]): Version | undefined {
  return versions.find(version => version.id === id && phases.includes(version.phase))
}

function change(draft: Draft, id: number, by: Partial<Version>): void {
  draft.versions = draft.versions.map(version => (version.id === id ? { ...version, ...by } : version))
}

function answer(
  { effects }: Draft,
  askers: readonly number[],
  version: number | null,
  outcome: 'serving' | 'failed' | 'cancelled' | 'ending',
): void {
  if (askers.length > 0) effects.push({ type: 'answer', askers, version, outcome })
}

/** Exit code where no version was brought to serve, and none says by its own that it failed: 0 is no success then. */
const FAILED_CODE = 1

export function step(state: SupervisorState, event: SupervisorEvent): Step {
  const draft: Draft = { ...state, effects: [] }
  const asks = event.type === 'upgrade' || event.type === 'rollback'
  if (state.mode !== 'ended' || asks) apply(draft, event)
  const { effects, ...after } = draft
  return { state: after, effects }
}

function apply(draft: Draft, event: SupervisorEvent): void {
  switch (event.type) {
    case 'start':
      if (draft.started === 0) launch(draft, [])
      return
    case 'spawned':
      spawned(draft, event.version)
      return
    case 'spawn-failed':
      if (is(draft, event.version, 'spawning')) gone(draft, event.version, FAILED_CODE)
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
    case 'backed-off':
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
  const version = is(draft, id, 'spawning')
  if (version === undefined) return
  change(draft, id, { phase: 'starting' })
  if (version.doomed) {
    if (draft.mode === 'running') giveUp(draft, id, 'cancelled')
    else end(draft, id, 'ending')
    return
  }
  draft.effects.push({ type: 'watch', version: id }, { type: 'wait', timer: 'ready', version: id })
}

function ready(draft: Draft, id: number): void {
  const version = is(draft, id, 'starting')
  if (version === undefined) return
  // No version is stopped for it, or one that fails: what it has to prove it may prove while it serves.
  const now = serving(draft)
  if (now === undefined || now.sick || version.of !== null) {
    promote(draft, id)
    return
  }
  change(draft, id, { phase: 'trial' })
  draft.effects.push({ type: 'wait', timer: 'healthy', version: id })
}

function promote(draft: Draft, id: number): void {
  const before = serving(draft)
  const { askers = [], of = null, wanted = false } = is(draft, id, 'starting', 'trial') ?? {}
  change(draft, id, { phase: 'serving', askers: [] })
  draft.effects.push({ type: 'promote', version: id }, { type: 'wait', timer: 'proved', version: id })
  answer(draft, askers, id, 'serving')
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
  const version = is(draft, id, 'serving')
  if (version === undefined) {
    giveUp(draft, id, 'failed')
    return
  }
  if (version.sick || draft.mode !== 'running') return
  change(draft, id, { sick: true })
  if (candidate(draft) === undefined) replace(draft, version, FAILED_CODE)
}

function healthy(draft: Draft, id: number): void {
  const version = is(draft, id, 'serving')
  if (version === undefined || !version.sick) return
  change(draft, id, { sick: false })
  draft.waiting = false
  if (!version.proved) draft.effects.push({ type: 'wait', timer: 'proved', version: id })
}

/** Ends a version that does not serve yet. Its askers hear of a failure when it has ended: no client meets it then. */
function giveUp(draft: Draft, id: number, why: 'failed' | 'cancelled'): void {
  const version = is(draft, id, 'starting', 'trial')
  if (version === undefined) return
  if (why === 'cancelled') {
    answer(draft, version.askers, id, why)
    change(draft, id, { askers: [] })
  }
  end(draft, id, why)
  lost(draft, version, FAILED_CODE)
}

function end(draft: Draft, id: number, why: EndReason): void {
  change(draft, id, { phase: 'stopping' })
  draft.effects.push({ type: 'end', version: id, why }, { type: 'wait', timer: 'stop', version: id })
}

function kill(draft: Draft, id: number): void {
  change(draft, id, { phase: 'killed' })
  draft.effects.push({ type: 'kill', version: id }, { type: 'wait', timer: 'kill', version: id })
}

/** It has no process any more, or none that anything could be done about. */
function gone(draft: Draft, id: number, code: number): void {
  const version = draft.versions.find(one => one.id === id)
  if (version === undefined) return
  draft.versions = draft.versions.filter(version => version.id !== id)
  answer(draft, version.askers, id, version.doomed ? 'cancelled' : 'failed')
  const { phase } = version
  if (version.relayed) draft.code = code
  if (phase === 'serving') {
    draft.code = code
    // It was on trial beside one that is dead: there is nothing to choose between any more.
    const next = candidate(draft)
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
  const now = serving(draft)
  if ((now !== undefined && !now.sick) || candidate(draft) !== undefined) {
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
 * after a back-off, if the restart policy says so. False: none is started.
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
  draft.effects.push({ type: 'back-off', failures: draft.failures })
  return true
}

/** The waiting clients get the next version. */
function goOn(draft: Draft): void {
  if (draft.mode !== 'running' || draft.next.length === 0 || candidate(draft) !== undefined) return
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
      if (is(draft, id, 'starting')) giveUp(draft, id, 'failed')
      return
    case 'healthy':
      if (is(draft, id, 'trial')) promote(draft, id)
      return
    case 'proved':
      prove(draft, id)
      return
    case 'stop':
      if (is(draft, id, 'stopping')) kill(draft, id)
      return
    case 'kill':
      // It waits in the kernel, which ends it some day.
      if (is(draft, id, 'killed')) gone(draft, id, draft.code)
  }
}

function prove(draft: Draft, id: number): void {
  const version = is(draft, id, 'serving')
  if (version === undefined || version.sick) return
  draft.failures = 0
  change(draft, id, { proved: true })
  draft.good = [id]
}

function upgrade(draft: Draft, asker: number): void {
  if (draft.mode !== 'running') answer(draft, [asker], null, 'ending')
  else if (candidate(draft) === undefined) launch(draft, [asker])
  else draft.next = [...draft.next, asker]
}

/** The version that serves goes on until the version before is ready. */
function rollback(draft: Draft, asker: number): void {
  const { before } = draft
  const next = candidate(draft)
  if (draft.mode !== 'running') answer(draft, [asker], null, 'ending')
  else if (next !== undefined && next.of !== null) change(draft, next.id, { askers: [...next.askers, asker] })
  else if (next !== undefined || before === null || serving(draft) === undefined)
    answer(draft, [asker], null, 'cancelled')
  else launch(draft, [asker], before)
}

function cancel(draft: Draft, asker: number): void {
  const others = (askers: readonly number[]) => askers.filter(one => one !== asker)
  if (draft.next.includes(asker)) {
    draft.next = others(draft.next)
    answer(draft, [asker], null, 'cancelled')
    return
  }
  const version = candidate(draft)
  if (!version?.askers.includes(asker)) return
  // No other client wants it, and nothing would be lost without.
  const now = serving(draft)
  if (version.askers.length > 1 || now === undefined || (now.sick && version.of !== null)) {
    change(draft, version.id, { askers: others(version.askers) })
    answer(draft, [asker], version.id, 'cancelled')
  } else if (version.phase === 'spawning') change(draft, version.id, { doomed: true })
  else giveUp(draft, version.id, 'cancelled')
}

function stop(draft: Draft, now: boolean): void {
  if (draft.mode === 'running') {
    draft.mode = 'ending'
    draft.waiting = false
    answer(draft, draft.next, null, 'ending')
    draft.next = []
    const last = serving(draft) ?? candidate(draft)
    for (const { id, phase, askers } of draft.versions) {
      change(draft, id, { relayed: id === last?.id })
      if (phase === 'stopping' || phase === 'killed') continue
      answer(draft, askers, id, 'ending')
      change(draft, id, { askers: [] })
      if (phase === 'spawning') change(draft, id, { doomed: true })
      else end(draft, id, 'ending')
    }
  }
  if (now) for (const { id, phase } of draft.versions) if (phase === 'stopping') kill(draft, id)
  finish(draft)
}
