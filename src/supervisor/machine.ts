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
  /** Exit code of the version that served last; what the supervisor ends with. */
  readonly code: number
}

export type Timer = 'ready' | 'healthy' | 'proved' | 'stop' | 'kill'

/** Why a version is told to end. */
export type EndReason = 'replaced' | 'failed' | 'cancelled' | 'ending'

export type SupervisorEvent =
  | { readonly type: 'start' }
  | { readonly type: 'spawned' | 'spawn-failed' | 'ready'; readonly version: number }
  /** It is not ready and will not be, or has not kept what it promised when it was. */
  | { readonly type: 'unhealthy'; readonly version: number }
  | { readonly type: 'exited'; readonly version: number; readonly code: number }
  | { readonly type: 'elapsed'; readonly timer: Timer; readonly version: number }
  | { readonly type: 'rested' }
  | { readonly type: 'upgrade' | 'cancel'; readonly asker: number }
  /** `now`: without waiting for what they still do. */
  | { readonly type: 'stop'; readonly now: boolean }

export type SupervisorEffect =
  | { readonly type: 'spawn'; readonly version: number }
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

/** Exit code where no version was brought to serve, and none says by its own that it failed: 0 is no success then. */
const FAILED_CODE = 1

export function initial(restart: Restart = 'never'): SupervisorState {
  return {
    mode: 'running',
    restart,
    versions: [],
    next: [],
    started: 0,
    failures: 0,
    waiting: false,
    code: 0,
  }
}

/** The one that is being brought to serve. */
export function coming({ versions }: SupervisorState): Version | undefined {
  return versions.find(({ phase }) => phase === 'spawning' || phase === 'starting' || phase === 'trial')
}

export function serving({ versions }: SupervisorState): Version | undefined {
  return versions.find(({ phase }) => phase === 'serving')
}

export function step(state: SupervisorState, event: SupervisorEvent): Step {
  const draft = new Draft(state)
  if (state.mode !== 'ended' || event.type === 'upgrade') take(draft, event)
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
      giveUp(draft, event.version, 'failed')
      return
    case 'exited':
      gone(draft, event.version, event.code)
      return
    case 'elapsed':
      elapsed(draft, event.timer, event.version)
      return
    case 'rested':
      if (draft.waiting && draft.mode === 'running') launch(draft, [])
      return
    case 'upgrade':
      upgrade(draft, event.asker)
      return
    case 'cancel':
      cancel(draft, event.asker)
      return
    case 'stop':
      stop(draft, event.now)
  }
}

/** What one step changes. */
class Draft {
  mode: SupervisorState['mode']
  started: number
  failures: number
  waiting: boolean
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
    const { mode, restart, versions, next, started, failures, waiting, code } = this
    return {
      state: { mode, restart, versions, next, started, failures, waiting, code },
      effects: this.effects,
    }
  }
}

function launch(draft: Draft, askers: readonly number[]): void {
  const id = ++draft.started
  draft.waiting = false
  draft.versions = [...draft.versions, { id, phase: 'spawning', askers, doomed: false, relayed: false }]
  draft.effects.push({ type: 'spawn', version: id })
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
  if (draft.is(id, 'starting') === undefined) return
  // Nobody is stopped for it: what it has to prove it may prove while it serves.
  if (draft.serving === undefined) {
    promote(draft, id)
    return
  }
  draft.change(id, { phase: 'trial' })
  draft.effects.push({ type: 'wait', timer: 'healthy', version: id })
}

function promote(draft: Draft, id: number): void {
  const before = draft.serving
  const { askers = [] } = draft.is(id, 'starting', 'trial') ?? {}
  draft.change(id, { phase: 'serving', askers: [] })
  draft.effects.push({ type: 'promote', version: id }, { type: 'wait', timer: 'proved', version: id })
  draft.answer(askers, id, 'serving')
  if (before !== undefined) end(draft, before.id, 'replaced')
  goOn(draft)
}

/** A version that does not serve yet is to be ended. */
function giveUp(draft: Draft, id: number, why: 'failed' | 'cancelled'): void {
  const version = draft.is(id, 'starting', 'trial')
  if (version === undefined) return
  draft.answer(version.askers, id, why)
  draft.change(id, { askers: [] })
  end(draft, id, why)
  lost(draft, FAILED_CODE)
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
    lost(draft, code)
  } else if (phase !== 'stopping' && phase !== 'killed') {
    lost(draft, code || FAILED_CODE)
  }
  finish(draft)
}

/** One that served, or was to, does not any more. */
function lost(draft: Draft, code: number): void {
  if (draft.mode !== 'running') return
  if (draft.serving !== undefined || draft.coming !== undefined) {
    goOn(draft)
    return
  }
  draft.code = code
  draft.failures++
  if (draft.next.length > 0) goOn(draft)
  else if (draft.restart === 'always' || (draft.restart === 'on-failure' && code !== 0)) {
    draft.waiting = true
    draft.effects.push({ type: 'rest', failures: draft.failures })
  } else {
    draft.mode = 'ending'
    finish(draft)
  }
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
      if (draft.is(id, 'serving')) draft.failures = 0
      return
    case 'stop':
      if (draft.is(id, 'stopping')) kill(draft, id)
      return
    case 'kill':
      // It waits in the kernel, which ends it some day.
      if (draft.is(id, 'killed')) gone(draft, id, draft.code)
  }
}

function upgrade(draft: Draft, asker: number): void {
  if (draft.mode !== 'running') draft.answer([asker], null, 'ending')
  else if (draft.coming === undefined) launch(draft, [asker])
  else draft.next = [...draft.next, asker]
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
  if (version.askers.length > 1 || draft.serving === undefined) {
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
      draft.answer(askers, id, 'ending')
      draft.change(id, { askers: [], relayed: id === last?.id })
      if (phase === 'spawning') draft.change(id, { doomed: true })
      else if (phase !== 'stopping' && phase !== 'killed') end(draft, id, 'ending')
    }
  }
  if (now) for (const { id, phase } of draft.versions) if (phase === 'stopping') kill(draft, id)
  finish(draft)
}
