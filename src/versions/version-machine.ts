/**
 * The state machine of `fd-broker run`: decides which version of a program is started, serves and is stopped. A pure function from state
 * and event to state and effects, without clock and processes. Effects may fail, or have no event as result. An event that is late, because
 * its version is in a later phase, changes nothing. Property names are part of the exec state, which other releases read.
 */

export type VersionPhase =
  /** Being started; has no process yet. */
  | 'spawning'
  /** The process runs, but is not ready. */
  | 'starting'
  /** Ready; checked for a while before it replaces the serving version. */
  | 'trial'
  | 'serving'
  /** Told to end by a signal. */
  | 'stopping'
  /** Told to end by SIGKILL. */
  | 'killed'

export interface Version {
  readonly id: number
  readonly phase: VersionPhase
  /** Requests that wait for the version to serve. */
  readonly askers: readonly number[]
  /** Whether the version was cancelled before it had a process. Such a version is told to end as soon as it has one. */
  readonly doomed: boolean
  /** Whether this is the last version of a supervisor that was told to end. */
  readonly last: boolean
  /** Id of the earlier version whose settings this version was started with; null: with the current settings. */
  readonly of: number | null
  /** Whether the version has completed its probation. */
  readonly proved: boolean
  /** Whether the version serves but fails its health checks. */
  readonly sick: boolean
  /** Whether an upgrade request started the version. */
  readonly wanted: boolean
}

export type Restart = 'never' | 'on-failure' | 'always'

export interface SupervisorState {
  readonly mode: 'running' | 'ending' | 'ended'
  readonly restart: Restart
  readonly versions: readonly Version[]
  /** Upgrade requests that wait until the candidate serves or fails; they get the version that is started after it. */
  readonly next: readonly number[]
  /** Number of versions started so far; the id of the latest one. */
  readonly started: number
  /** Number of failed versions since the last version that completed its probation. */
  readonly failures: number
  /** Whether a back-off delays the next start. */
  readonly waiting: boolean
  /** The version to start again after the back-off; null: start from the current settings. */
  readonly anew: number | null
  /** Ids of versions that are known to be good, best first. The first one replaces a version that fails in its probation. */
  readonly good: readonly number[]
  /** The version that a rollback starts again, or null. */
  readonly before: number | null
  /** The supervisor's exit code: 0 if it was told to end; else that of the version that served last or, if none has served, that failed last. */
  readonly code: number
  /** Whether a version has ended while it served. Absent if none has, or an earlier release wrote this state. */
  readonly served?: boolean
}

export type TimerName = 'ready' | 'healthy' | 'proved' | 'stop' | 'kill'

export type VersionEndReason = 'replaced' | 'failed' | 'cancelled' | 'ending'

export type SupervisorEvent =
  | { readonly type: 'start' }
  | { readonly type: 'spawned' | 'spawn-failed' | 'ready'; readonly version: number }
  /** `unhealthy`: the version failed, before it served or while it serves. `healthy`: its health checks pass again. */
  | { readonly type: 'unhealthy' | 'healthy'; readonly version: number }
  | { readonly type: 'exited'; readonly version: number; readonly code: number }
  | { readonly type: 'elapsed'; readonly timer: TimerName; readonly version: number }
  | { readonly type: 'backed-off' }
  /** Requests. `rollback`: start the previous version again. */
  | { readonly type: 'upgrade' | 'rollback' | 'cancel'; readonly asker: number }
  /** `now`: kill the versions at once. */
  | { readonly type: 'stop'; readonly now: boolean }

export type SupervisorEffect =
  /** Start a version. `of`: the earlier version whose settings it gets. */
  | { readonly type: 'spawn'; readonly version: number; readonly of?: number }
  /** Start the health checks. */
  | { readonly type: 'watch'; readonly version: number }
  | { readonly type: 'wait'; readonly timer: TimerName; readonly version: number }
  /** Wait, the longer the more failures, before the next start. */
  | { readonly type: 'back-off'; readonly failures: number }
  /** The version serves from now on. */
  | { readonly type: 'promote'; readonly version: number }
  | { readonly type: 'end'; readonly version: number; readonly why: VersionEndReason }
  | { readonly type: 'kill'; readonly version: number }
  /** Answer requests. `version` is null if no version was started for them. */
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

/** Returns the version that is being started, or on trial. */
export function candidate({ versions }: SupervisorState): Version | undefined {
  return versions.find(({ phase }) => phase === 'spawning' || phase === 'starting' || phase === 'trial')
}

export function serving({ versions }: SupervisorState): Version | undefined {
  return versions.find(({ phase }) => phase === 'serving')
}

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

/** Exit code for a failed version that has none, or 0. */
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
  const fresh = { doomed: false, last: false, proved: false, sick: false, wanted }
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
  // Without a trial if no healthy version serves, or if this version has served before: its probation is enough.
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
    // A version that a rollback replaces is not known to be good.
    if (!before.proved && !before.sick && of === null) draft.good = [before.id, ...draft.good.slice(-1)]
    end(draft, before.id, before.sick ? 'failed' : 'replaced')
  }
  if (of !== null) draft.before = null
  else if (wanted) draft.before = draft.good[0] ?? null
  startForWaiting(draft)
}

/** A serving version that fails its health checks keeps serving until its replacement is ready: it may be better than none. */
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
  // The failures count until it has been well for its probation, again if it has completed that before.
  draft.effects.push({ type: 'wait', timer: 'proved', version: id })
}

/** Ends a version that does not serve yet. Requests that wait for a failed version are answered when it has ended and reaches no client. */
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

/** Removes a version that has ended or, although killed, does not end. */
function removeVersion(draft: StepDraft, id: number, code: number): void {
  const version = draft.versions.find(one => one.id === id)
  if (version === undefined) return
  draft.versions = draft.versions.filter(version => version.id !== id)
  answer(draft, version.askers, id, version.doomed ? 'cancelled' : 'failed')
  const { phase } = version
  if (phase === 'serving') {
    draft.code = code
    draft.served = true
    // The serving version has died: a candidate on trial replaces it at once.
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

/** After the loss of a serving version or candidate, starts a version if none is healthy. If none serves and none is started, ends. */
function handleLoss(draft: StepDraft, version: Version, code: number): void {
  if (draft.mode !== 'running') return
  const now = serving(draft)
  if ((now !== undefined && !now.sick) || candidate(draft) !== undefined) {
    startForWaiting(draft)
    return
  }
  if (now === undefined && !draft.served) draft.code = code
  if (draft.next.length > 0) {
    draft.failures++
    startForWaiting(draft)
  } else if (!replace(draft, version, code) && now === undefined) {
    draft.mode = 'ending'
    finish(draft)
  }
}

/**
 * Starts a replacement for a failed version. If this had not completed its probation, starts the best known-good version at once; else a
 * version after a back-off, if the restart policy allows one. Returns false if none is started.
 */
function replace(draft: StepDraft, failed: Version, code: number): boolean {
  // A version that fails its health checks, and then ends, has failed once: the back-off has begun.
  const isCounted = failed.sick && draft.waiting
  if (!isCounted) draft.failures++
  const wasKnown = failed.of !== null && failed.of === draft.good[0]
  // The known-good version that was started again has failed too: try the next older one.
  if (wasKnown && !failed.proved && draft.good.length > 1) draft.good = draft.good.slice(1)
  const [best = null] = draft.good
  if (!failed.proved && best !== null && failed.of !== best) {
    launch(draft, [], best)
    return true
  }
  if (draft.restart === 'never' || (draft.restart === 'on-failure' && code === 0)) return false
  if (isCounted) return true
  draft.waiting = true
  draft.anew = failed.proved && failed.of === null ? null : best
  draft.effects.push({ type: 'back-off', failures: draft.failures })
  return true
}

/** Starts a version for the requests in `next`. */
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
      // The process waits in the kernel, so SIGKILL does not end it.
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

/** Starts the previous version again. The serving version keeps serving until that version is ready. */
function rollback(draft: StepDraft, asker: number): void {
  const { before } = draft
  const next = candidate(draft)
  if (draft.mode !== 'running') answer(draft, [asker], null, 'ending')
  else if (next !== undefined && next.of !== null) joinRollback(draft, next, asker)
  else if (next !== undefined || before === null || serving(draft) === undefined)
    answer(draft, [asker], null, 'cancelled')
  else launch(draft, [asker], before)
}

/** A rollback that was cancelled before its version had a process goes on for the next request. */
function joinRollback(draft: StepDraft, { id, askers, doomed }: Version, asker: number): void {
  if (doomed) answer(draft, askers, id, 'cancelled')
  change(draft, id, { askers: doomed ? [asker] : [...askers, asker], doomed: false })
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
  // The version continues if another request waits for it, if none serves, or if it was started to replace a sick one.
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
    // Whatever code the versions end with: a service manager must not take an end that it ordered for a failure.
    draft.code = 0
    for (const { id, phase, askers } of draft.versions) {
      change(draft, id, { last: id === last?.id })
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
