/**
 * Decides which version of a supervised program is started, serves and is stopped: a pure function from state and event to
 * state and effects. It knows no clock and no process. An effect may fail, be late or never be answered; what is told of a version
 * that is past it changes nothing.
 */

import {
  Draft,
  type EndReason,
  type Step,
  type SupervisorEvent,
  type SupervisorState,
  type Timer,
  type Version,
} from './machine-state.js'

export type * from './machine-state.js'
export {
  coming,
  initial,
  resumed,
  serving,
} from './machine-state.js'

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
