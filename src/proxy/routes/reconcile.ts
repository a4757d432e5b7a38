/**
 * What a new configuration file changes. Its routes replace those of the file before; routes made at run time survive,
 * whatever the file says. Where both have the same host and path, **the one made at run time stays in force until it
 * is removed**, and then the file's is: an operator who changed a route by hand does not lose the change to a
 * deployment that knows nothing of it, and the answer does not depend on which of the two came first. Each
 * such conflict is reported by name, at every reload and upgrade, until it is gone.
 */
import { GrowingList } from '../../base/growing-list.js'
import { ShardedMap } from '../../base/sharded-map.js'
import { originOf, parseRouteKey, type RouteId, routeKey, routeName } from './key.js'
import type { RouteRule } from './rule.js'
import {
  hasTarget,
  type RouteChange,
  type RouteMessage,
  type RouteStamp,
  type RouteState,
  routeMessage,
  targetOf,
} from './section.js'
import { StoredTargets } from './stored-targets.js'
import type { RouteTarget } from './target.js'

export interface Reconciled {
  puts: { key: string; value: RouteMessage }[]
  deletes: string[]
  /** Routes of the file that stay as they are. */
  unchanged: number
  /** `HOST/PATH` that the file has too but for which the route made at run time stays in force. */
  conflicts: string[]
  /** `HOST/PATH` of routes made at run time whose upstream the new file does not have, and who had it before does. They stay. */
  former: string[]
  /** `HOST/PATH` of routes made at run time whose upstream nobody knows. They stay, and answer 503. */
  dangling: string[]
  /** The upstreams of both. */
  needed: Set<string>
}

export interface NewFile {
  routes: readonly RouteRule[]
  upstreams: ReadonlySet<string>
  /** Upstreams that it does not have, and that can be used nevertheless. */
  former: ReadonlySet<string>
}

const STEP = 32

/**
 * Yields where it may be interrupted. Routes that are made or removed at run time meanwhile cannot make its changes
 * wrong, only what it says about them incomplete. Applying only a part of the changes does no harm: the next call
 * finds the rest. `served`: told of each route that there is with these changes.
 */
export function* reconcile(
  state: RouteState,
  file: NewFile,
  stamp: RouteStamp,
  served: (id: RouteId, target: RouteTarget) => void = () => {},
): Generator<void, Reconciled> {
  const result: Reconciled = {
    puts: [],
    deletes: [],
    unchanged: 0,
    conflicts: [],
    former: [],
    dangling: [],
    needed: new Set(),
  }
  let steps = 0
  let found = 0
  const stored = new StoredTargets(state)
  for (const { host, path, target } of file.routes) {
    if (++steps % STEP === 0) yield
    const id = { origin: 'file', host, path } as const
    const key = routeKey(id)
    served(id, target)
    const same = stored.has(key, target)
    const before = same ? undefined : state.get(key)
    if (same || before) found++
    if (same || hasTarget(before, target)) result.unchanged++
    else result.puts.push({ key, value: routeMessage(target, stamp, before) })
  }
  // Mostly nothing else is there.
  if (found !== state.size) yield* others(state, file, found, result, served)
  return result
}

/** What is there beside `found` routes of the file. */
function* others(
  state: RouteState,
  file: NewFile,
  found: number,
  result: Reconciled,
  served: (id: RouteId, target: RouteTarget) => void,
): Generator<void> {
  let steps = 0
  let there = 0
  const made = new GrowingList<string>()
  for (const key of state.keys()) {
    if (++steps % STEP === 0) yield
    const origin = originOf(key)
    if (origin === 'file') there++
    else if (origin === 'runtime') made.push(key)
  }
  // Mostly all that are there are wanted.
  if (there !== found) yield* unwanted(state, file, result.deletes)
  if (made.length === 0) return
  for (const { host, path } of file.routes) {
    if (++steps % STEP === 0) yield
    if (state.has(routeKey({ origin: 'runtime', host, path })))
      result.conflicts.push(routeName({ host, path }))
  }
  for (const key of made) {
    if (++steps % STEP === 0) yield
    const stored = state.get(key)
    const target = stored && targetOf(stored)
    const id = parseRouteKey(key)
    if (id && target) served(id, target)
    if (!id || target?.kind !== 'upstream' || file.upstreams.has(target.upstream)) continue
    result.needed.add(target.upstream)
    if (file.former.has(target.upstream)) result.former.push(routeName(id))
    else result.dangling.push(routeName(id))
  }
}

/** Routes of another file. */
function* unwanted(state: RouteState, { routes }: NewFile, into: string[]): Generator<void> {
  const wanted = new ShardedMap<true>()
  let steps = 0
  for (const { host, path } of routes) {
    if (++steps % STEP === 0) yield
    wanted.set(routeKey({ origin: 'file', host, path }), true)
  }
  for (const key of state.keys()) {
    if (++steps % STEP === 0) yield
    if (originOf(key) === 'file' && !wanted.has(key)) into.push(key)
  }
}

/** For the section's `bulk`. */
export function* changesOf({ puts, deletes }: Reconciled): Generator<RouteChange> {
  yield* puts
  for (const key of deletes) yield { key, delete: true }
}
