/**
 * Decides which version of a supervised program is started, serves and is stopped. A pure function from state and event to state and
 * effects; it knows no clock and no process. An effect may fail or never be answered; a late event about a version in a later phase changes
 * nothing. The state is part of the exec state: its property names are a format that other releases read.
 */

export type VersionPhase =
  /** Being started; no process yet. */
  | 'spawning'
  /** The process runs, but is not ready. */
  | 'starting'
  /** Ready, and observed beside the serving version. */
  | 'trial'
  | 'serving'
  /** Told to end. */
  | 'stopping'
  | 'killed'

export interface Version {
  readonly id: number
  readonly phase: VersionPhase
  /** Requests that wait for the version to serve. */
  readonly askers: readonly number[]
  /** Whether the version was cancelled before it had a process; it is ended as soon as it has one. */
  readonly doomed: boolean
  /** Whether the version's exit code becomes the supervisor's, even if the version was told to end. */
  readonly relayed: boolean
  /** The earlier version that this one repeats; null: it was started from the current settings. */
  readonly of: number | null
  /** Whether the version has completed its probation. */
  readonly proved: boolean
  /** Whether the version serves but fails its health checks. */
  readonly sick: boolean
  /** Whether a request started the version, as opposed to a restart. */
  readonly wanted: boolean
}

export type Restart = 'never' | 'on-failure' | 'always'

export interface SupervisorState {
  readonly mode: 'running' | 'ending' | 'ended'
  readonly restart: Restart
  readonly versions: readonly Version[]
  /** Requests that wait for the version after the candidate. */
  readonly next: readonly number[]
  readonly started: number
  /** Consecutive failures since the last proven version. */
  readonly failures: number
  /** Whether a back-off runs before the next start. */
  readonly waiting: boolean
  /** The version to repeat after the back-off; null: start from the current settings. */
  readonly anew: number | null
  /** Known-good versions, best first: one of them replaces a version that fails in its probation. */
  readonly good: readonly number[]
  /** The version that a rollback returns to, or null. */
  readonly before: number | null
  /** Exit code of the version that served last: the supervisor's exit code. */
  readonly code: number
}

export type TimerName = 'ready' | 'healthy' | 'proved' | 'stop' | 'kill'

export type VersionEndReason = 'replaced' | 'failed' | 'cancelled' | 'ending'

export type SupervisorEvent =
  | { readonly type: 'start' }
  | { readonly type: 'spawned' | 'spawn-failed' | 'ready'; readonly version: number }
  /** Health checks failed: before readiness for good, or while serving. `healthy`: they pass again. */
  | { readonly type: 'unhealthy' | 'healthy'; readonly version: number }
  | { readonly type: 'exited'; readonly version: number; readonly code: number }
  | { readonly type: 'elapsed'; readonly timer: TimerName; readonly version: number }
  | { readonly type: 'backed-off' }
  /** `rollback`: the previous version must serve again. */
  | { readonly type: 'upgrade' | 'rollback' | 'cancel'; readonly asker: number }
  /** `now`: kill the versions at once. */
  | { readonly type: 'stop'; readonly now: boolean }

export type SupervisorEffect =
  /** `of`: the earlier version to repeat. */
  | { readonly type: 'spawn'; readonly version: number; readonly of?: number }
  /** Start the health checks. */
  | { readonly type: 'watch'; readonly version: number }
  | { readonly type: 'wait'; readonly timer: TimerName; readonly version: number }
  /** Wait before the next start. */
  | { readonly type: 'back-off'; readonly failures: number }
  /** The version serves from now on. */
  | { readonly type: 'promote'; readonly version: number }
  | { readonly type: 'end'; readonly version: number; readonly why: VersionEndReason }
  | { readonly type: 'kill'; readonly version: number }
  /** Answer requests. `version` is null if none was started for them. */
  | {
      readonly type: 'answer'
      readonly askers: readonly number[]
      readonly version: number | null
      readonly outcome: 'serving' | 'failed' | 'cancelled' | 'ending'
    }
  | { readonly type: 'exit'; readonly code: number }

export interface MachineStep {
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

/** The version that is being started, or is observed before it serves. */
export function candidate({ versions }: SupervisorState): Version | undefined {
  return versions.find(({ phase }) => phase === 'spawning' || phase === 'starting' || phase === 'trial')
}

export function serving({ versions }: SupervisorState): Version | undefined {
  return versions.find(({ phase }) => phase === 'serving')
}

/** The state and effects of a step in progress. */
type StepDraft = { -readonly [K in keyof SupervisorState]: SupervisorState[K] } & {
  effects: SupervisorEffect[]
}

function findIn(
  { versions }: StepDraft,
  id: number,
  ...phases: readonly VersionPhase[]
): Version | undefined {
  return versions.find(version => version.id === id && phases.includes(version.phase))
}

function change(draft: StepDraft, id: number, by: Partial<Version>): void {
  draft.versions = draft.versions.map(version => (version.id === id ? { ...version, ...by } : version))
}

function answer(
  { effects }: StepDraft,
  askers: readonly number[],
  version: number | null,
  outcome: 'serving' | 'failed' | 'cancelled' | 'ending',
): void {
  if (askers.length > 0) effects.push({ type: 'answer', askers, version, outcome })
}

/** Exit code of a version that failed without an error code of its own. */
const FAILED_CODE = 1

export function step(state: SupervisorState, event: SupervisorEvent): MachineStep {
  const draft: StepDraft = { ...state, effects: [] }
  const asks = event.type === 'upgrade' || event.type === 'rollback'
  if (state.mode !== 'ended' || asks) apply(draft, event)
  const { effects, ...after } = draft
  return { state: after, effects }
}

function apply(draft: StepDraft, event: SupervisorEvent): void {
  switch (event.type) {
    case 'start':
      if (draft.started === 0) launch(draft, [])
      return
    case 'spawned':
      spawned(draft, event.version)
      return
    case 'spawn-failed':
      if (findIn(draft, event.version, 'spawning')) removeVersion(draft, event.version, FAILED_CODE)
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
      removeVersion(draft, event.version, event.code)
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

function launch(draft: StepDraft, askers: readonly number[], of: number | null = null): void {
  const id = ++draft.started
  draft.waiting = false
  const wanted = of === null && askers.length > 0
  const fresh = { doomed: false, relayed: false, proved: false, sick: false, wanted }
  draft.versions = [...draft.versions, { id, phase: 'spawning', askers, of, ...fresh }]
  draft.effects.push(of === null ? { type: 'spawn', version: id } : { type: 'spawn', version: id, of })
}

function spawned(draft: StepDraft, id: number): void {
  const version = findIn(draft, id, 'spawning')
  if (version === undefined) return
  change(draft, id, { phase: 'starting' })
  if (version.doomed) {
    if (draft.mode === 'running') giveUp(draft, id, 'cancelled')
    else end(draft, id, 'ending')
    return
  }
  draft.effects.push({ type: 'watch', version: id }, { type: 'wait', timer: 'ready', version: id })
}

function ready(draft: StepDraft, id: number): void {
  const version = findIn(draft, id, 'starting')
  if (version === undefined) return
  // No healthy version serves, or this one has served before: promote it without a trial, its probation is enough.
  const now = serving(draft)
  if (now === undefined || now.sick || version.of !== null) {
    promote(draft, id)
    return
  }
  change(draft, id, { phase: 'trial' })
  draft.effects.push({ type: 'wait', timer: 'healthy', version: id })
}

function promote(draft: StepDraft, id: number): void {
  const before = serving(draft)
  const { askers = [], of = null, wanted = false } = findIn(draft, id, 'starting', 'trial') ?? {}
  change(draft, id, { phase: 'serving', askers: [] })
  draft.effects.push({ type: 'promote', version: id }, { type: 'wait', timer: 'proved', version: id })
  answer(draft, askers, id, 'serving')
  if (before !== undefined) {
    // A version that a rollback leaves is not known to be good.
    if (!before.proved && !before.sick && of === null) draft.good = [before.id, ...draft.good.slice(-1)]
    end(draft, before.id, before.sick ? 'failed' : 'replaced')
  }
  if (of !== null) draft.before = null
  else if (wanted) draft.before = draft.good[0] ?? null
  startForWaiting(draft)
}

/** A failing version keeps serving until its replacement is ready: it may be better than none. */
function unhealthy(draft: StepDraft, id: number): void {
  const version = findIn(draft, id, 'serving')
  if (version === undefined) {
    giveUp(draft, id, 'failed')
    return
  }
  if (version.sick || draft.mode !== 'running') return
  change(draft, id, { sick: true })
  if (candidate(draft) === undefined) replace(draft, version, FAILED_CODE)
}

function healthy(draft: StepDraft, id: number): void {
  const version = findIn(draft, id, 'serving')
  if (version === undefined || !version.sick) return
  change(draft, id, { sick: false })
  draft.waiting = false
  if (!version.proved) draft.effects.push({ type: 'wait', timer: 'proved', version: id })
}

/** Ends a version that does not serve yet. Requests learn of a failure only when it has ended, so that no client reaches it then. */
function giveUp(draft: StepDraft, id: number, why: 'failed' | 'cancelled'): void {
  const version = findIn(draft, id, 'starting', 'trial')
  if (version === undefined) return
  if (why === 'cancelled') {
    answer(draft, version.askers, id, why)
    change(draft, id, { askers: [] })
  }
  end(draft, id, why)
  handleLoss(draft, version, FAILED_CODE)
}

function end(draft: StepDraft, id: number, why: VersionEndReason): void {
  change(draft, id, { phase: 'stopping' })
  draft.effects.push({ type: 'end', version: id, why }, { type: 'wait', timer: 'stop', version: id })
}

function kill(draft: StepDraft, id: number): void {
  change(draft, id, { phase: 'killed' })
  draft.effects.push({ type: 'kill', version: id }, { type: 'wait', timer: 'kill', version: id })
}

/** Removes a version that has ended, or whose process cannot be killed. */
function removeVersion(draft: StepDraft, id: number, code: number): void {
  const version = draft.versions.find(one => one.id === id)
  if (version === undefined) return
  draft.versions = draft.versions.filter(version => version.id !== id)
  answer(draft, version.askers, id, version.doomed ? 'cancelled' : 'failed')
  const { phase } = version
  if (version.relayed) draft.code = code
  if (phase === 'serving') {
    draft.code = code
    // The serving version died: promote the candidate on trial early.
    const next = candidate(draft)
    if (next?.phase === 'trial') {
      draft.failures++
      promote(draft, next.id)
      return
    }
    handleLoss(draft, version, code)
  } else if (phase !== 'stopping' && phase !== 'killed') {
    handleLoss(draft, version, code || FAILED_CODE)
  }
  finish(draft)
}

/** Handles the loss of a version that served or was a candidate. */
function handleLoss(draft: StepDraft, version: Version, code: number): void {
  if (draft.mode !== 'running') return
  const now = serving(draft)
  if ((now !== undefined && !now.sick) || candidate(draft) !== undefined) {
    startForWaiting(draft)
    return
  }
  if (now === undefined) draft.code = code
  if (draft.next.length > 0) {
    draft.failures++
    startForWaiting(draft)
  } else if (!replace(draft, version, code) && now === undefined) {
    draft.mode = 'ending'
    finish(draft)
  }
}

/**
 * Starts a replacement for a failed version: the known-good version at once if the failure was in its probation or before it served, else
 * after a back-off if the restart policy allows. Returns false if nothing is started.
 */
function replace(draft: StepDraft, failed: Version, code: number): boolean {
  draft.failures++
  const wasKnown = failed.of !== null && failed.of === draft.good[0]
  // The restarted known-good version failed too: drop it, and try the next older one.
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

/** Starts the next version for waiting requests. */
function startForWaiting(draft: StepDraft): void {
  if (draft.mode !== 'running' || draft.next.length === 0 || candidate(draft) !== undefined) return
  const askers = draft.next
  draft.next = []
  launch(draft, askers)
}

function finish(draft: StepDraft): void {
  if (draft.mode !== 'ending' || draft.versions.length > 0) return
  draft.mode = 'ended'
  draft.effects.push({ type: 'exit', code: draft.code })
}

function elapsed(draft: StepDraft, timer: TimerName, id: number): void {
  switch (timer) {
    case 'ready':
      if (findIn(draft, id, 'starting')) giveUp(draft, id, 'failed')
      return
    case 'healthy':
      if (findIn(draft, id, 'trial')) promote(draft, id)
      return
    case 'proved':
      prove(draft, id)
      return
    case 'stop':
      if (findIn(draft, id, 'stopping')) kill(draft, id)
      return
    case 'kill':
      // A process that survives SIGKILL waits in the kernel: give it up.
      if (findIn(draft, id, 'killed')) removeVersion(draft, id, draft.code)
  }
}

function prove(draft: StepDraft, id: number): void {
  const version = findIn(draft, id, 'serving')
  if (version === undefined || version.sick) return
  draft.failures = 0
  change(draft, id, { proved: true })
  draft.good = [id]
}

function upgrade(draft: StepDraft, asker: number): void {
  if (draft.mode !== 'running') answer(draft, [asker], null, 'ending')
  else if (candidate(draft) === undefined) launch(draft, [asker])
  else draft.next = [...draft.next, asker]
}

/** Starts the previous version; the serving version keeps serving until that one is ready. */
function rollback(draft: StepDraft, asker: number): void {
  const { before } = draft
  const next = candidate(draft)
  if (draft.mode !== 'running') answer(draft, [asker], null, 'ending')
  else if (next !== undefined && next.of !== null) change(draft, next.id, { askers: [...next.askers, asker] })
  else if (next !== undefined || before === null || serving(draft) === undefined)
    answer(draft, [asker], null, 'cancelled')
  else launch(draft, [asker], before)
}

function cancel(draft: StepDraft, asker: number): void {
  const others = (askers: readonly number[]) => askers.filter(one => one !== asker)
  if (draft.next.includes(asker)) {
    draft.next = others(draft.next)
    answer(draft, [asker], null, 'cancelled')
    return
  }
  const version = candidate(draft)
  if (!version?.askers.includes(asker)) return
  // Cancel the version only if no other request waits for it, and a healthy version serves.
  const now = serving(draft)
  if (version.askers.length > 1 || now === undefined || (now.sick && version.of !== null)) {
    change(draft, version.id, { askers: others(version.askers) })
    answer(draft, [asker], version.id, 'cancelled')
  } else if (version.phase === 'spawning') change(draft, version.id, { doomed: true })
  else giveUp(draft, version.id, 'cancelled')
}

function stop(draft: StepDraft, now: boolean): void {
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
