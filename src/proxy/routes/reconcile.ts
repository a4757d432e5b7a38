/** Computes the changes of the state for a new configuration file, whose routes replace those of the previous file. Reports each route that a route made at run time overrides. */
import { GrowingList, ShardedMap } from '../../base/large-collections.js'
import { fdbroker } from '../../proto/proxy.js'
import { getIfReadable, type Stamp } from '../entries/difference.js'
import { originOf } from '../entries/overlay.js'
import { parseRouteKey, type RouteId, routeKey, routeName } from './path-tree.js'
import type { RouteRule } from './rule.js'
import {
  hasTarget,
  type RouteMessage,
  type RouteState,
  routeMessage,
  servedTarget,
  targetFields,
} from './section.js'
import { type RouteTarget, targetKey, upstreamsOf } from './target.js'

export type Reconciled = ReturnType<typeof noChanges>

function noChanges() {
  return {
    puts: [] as { key: string; value: RouteMessage }[],
    deletes: [] as string[],
    unchanged: 0,
    /** `HOST/PATH` of the file's routes that a route made at run time overrides. */
    conflicts: [] as string[],
    /** `HOST/PATH` of routes made at run time whose upstream only an earlier file has. The routes stay in use. */
    former: [] as string[],
    /** `HOST/PATH` of routes made at run time with an unknown upstream. The routes are kept; their requests get 503. */
    dangling: [] as string[],
    /** The upstreams of the routes in `former` and `dangling`. */
    needed: new Set<string>(),
    /** The digest of the state's routes if they were exactly those of the file, so that nothing changes; otherwise null. */
    digest: null as string | null,
  }
}

export interface FileRoutes {
  routes: readonly RouteRule[]
  upstreams: ReadonlySet<string>
  /** Upstreams of earlier files that can still be used. */
  former: ReadonlySet<string>
  /** The digest of a state that has exactly these routes, if it is known; see {@link Reconciled}. */
  digest?: string | null
}

const STEP = 32

/** Yields where it may pause. Routes may change during a pause, and the result may be applied only in part. Calls `served` with each route that will be served. */
export function* reconcile(
  state: RouteState,
  file: FileRoutes,
  stamp: Stamp,
  served: (id: RouteId, target: RouteTarget) => void = () => {},
): Generator<void, Reconciled> {
  const result = noChanges()
  let steps = 0
  let foundCount = 0
  const stored = new StoredTargets(state)
  for (const { host, path, target } of file.routes) {
    if (++steps % STEP === 0) yield
    const id = { origin: 'file', host, path } as const
    const key = routeKey(id)
    served(id, target)
    const isUnchanged = stored.has(key, target)
    const before = isUnchanged ? undefined : getIfReadable(state, key)
    if (isUnchanged || before) foundCount++
    if (isUnchanged || hasTarget(before, target)) result.unchanged++
    else result.puts.push({ key, value: routeMessage(target, stamp, before) })
  }
  // Skipped in the common case: the state has only wanted file routes.
  if (foundCount !== state.size) yield* reconcileOthers(state, file, foundCount, result, served)
  return result
}

/** The result of {@link reconcile} for a state that has the digest of the file. Such a state need not be compared. */
export function* unchanged(
  { routes, digest = null }: FileRoutes,
  served: (id: RouteId, target: RouteTarget) => void,
): Generator<void, Reconciled> {
  for (const [index, { host, path, target }] of routes.entries()) {
    if (index % STEP === 0) yield
    served({ origin: 'file', host, path }, target)
  }
  return { ...noChanges(), unchanged: routes.length, digest }
}

function* reconcileOthers(
  state: RouteState,
  file: FileRoutes,
  foundCount: number,
  result: Reconciled,
  served: (id: RouteId, target: RouteTarget) => void,
): Generator<void> {
  let steps = 0
  let inState = 0
  const runtimeKeys = new GrowingList<string>()
  for (const key of state.keys()) {
    if (++steps % STEP === 0) yield
    const origin = originOf(key)
    if (origin === 'file') inState++
    else if (origin === 'runtime') runtimeKeys.push(key)
  }
  // Skipped in the common case: all file routes of the state are wanted.
  if (inState !== foundCount) yield* findUnwanted(state, file, result.deletes)
  if (runtimeKeys.length === 0) return
  for (const { host, path } of file.routes) {
    if (++steps % STEP === 0) yield
    if (state.has(routeKey({ origin: 'runtime', host, path })))
      result.conflicts.push(routeName({ host, path }))
  }
  for (const key of runtimeKeys) {
    if (++steps % STEP === 0) yield
    const stored = getIfReadable(state, key)
    const target = stored && servedTarget(stored)
    const id = parseRouteKey(key)
    if (id && target) served(id, target)
    const missing = target ? upstreamsOf(target).filter(name => !file.upstreams.has(name)) : []
    if (!id || missing.length === 0) continue
    for (const name of missing) result.needed.add(name)
    if (missing.every(name => file.former.has(name))) result.former.push(routeName(id))
    else result.dangling.push(routeName(id))
  }
}

function* findUnwanted(state: RouteState, { routes }: FileRoutes, into: string[]): Generator<void> {
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

/** How many encoded targets are cached. Most files have few different targets; some have another target for each route. */
const CACHED_TARGETS = 1_024
const MAX_CACHED_BYTES = 1_024
const CREATED_TAG = 14 << 3
const GENERATION_TAG = 15 << 3
/** Maximum bytes of the numbers `created` and `generation`. An entry with a longer number must be decoded. */
const NUMBER_BYTES = 7

/** Recognizes stored routes by their bytes, without decoding them. */
export class StoredTargets {
  readonly #state: RouteState
  readonly #cache = new Map<string, Uint8Array>()

  constructor(state: RouteState) {
    this.#state = state
  }

  /** Returns true if the route surely has this target. If false, the caller must decode the entry to find out. */
  has(key: string, target: RouteTarget): boolean {
    if (this.#state.isStored_ === undefined) return false
    const wanted = this.#encode(target)
    return this.#state.isStored_(
      key,
      (bytes, start, end) =>
        beginsWith(bytes, start, end, wanted) && areStamps(bytes, start + wanted.length, end),
    )
  }

  #encode(target: RouteTarget): Uint8Array {
    const key = targetKey(target)
    const cached = this.#cache.get(key)
    if (cached !== undefined) return cached
    const encoded = fdbroker.proxy.Route.encode(targetFields(target)).finish()
    if (encoded.length > MAX_CACHED_BYTES) return encoded
    if (this.#cache.size >= CACHED_TARGETS) this.#cache.clear()
    this.#cache.set(key, encoded)
    return encoded
  }
}

function beginsWith(bytes: Uint8Array, start: number, end: number, wanted: Uint8Array): boolean {
  const { length } = wanted
  if (end - start < length) return false
  for (let i = 0; i < length; i++) if (bytes[start + i] !== wanted[i]) return false
  return true
}

/** Reports whether only `created` and `generation` follow the target. */
function areStamps(bytes: Uint8Array, start: number, end: number): boolean {
  for (let at = start; at < end; at++) {
    const tag = bytes[at++]
    if (tag !== CREATED_TAG && tag !== GENERATION_TAG) return false
    const last = Math.min(end, at + NUMBER_BYTES) - 1
    while (at < last && bytes[at]! >= 0x80) at++
    if (at >= end || bytes[at]! >= 0x80) return false
  }
  return true
}
