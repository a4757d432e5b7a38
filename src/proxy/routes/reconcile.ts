/**
 * Computes the changes of a new configuration file. Its routes replace those of the file before. A route made at run time with the same host and path
 * **stays in force until it is removed**: a deployment does not undo an operator's change. Each such conflict is reported by name.
 */
import { GrowingList, ShardedMap } from '../../base/large-collections.js'
import { fdbroker } from '../../proto/proxy.js'
import { originOf, parseRouteKey, type RouteId, routeKey, routeName } from './path-tree.js'
import type { RouteRule } from './rule.js'
import {
  hasTarget,
  type RouteMessage,
  type RouteStamp,
  type RouteState,
  routeMessage,
  targetFields,
  targetOf,
} from './section.js'
import { type RouteTarget, targetKey } from './target.js'

export interface Reconciled {
  puts: { key: string; value: RouteMessage }[]
  deletes: string[]
  /** Routes of the file that stay as they are. */
  unchanged: number
  /** `HOST/PATH` that the file has too but for which the route made at run time stays in force. */
  conflicts: string[]
  /** `HOST/PATH` of routes made at run time whose upstream the new file does not have, and who had it before does. They stay. */
  former: string[]
  /** `HOST/PATH` of routes made at run time with an unknown upstream. They stay, and answer 503. */
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

/** Yields where it may be interrupted. Routes changed meanwhile, or changes applied in part, do no harm. `served`: told of each route there is with them. */
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
  if (found !== state.size) yield* reconcileOthers(state, file, found, result, served)
  return result
}

/** The entries beside `found` routes of the file. */
function* reconcileOthers(
  state: RouteState,
  file: NewFile,
  found: number,
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
  // Mostly all that are there are wanted.
  if (inState !== found) yield* findUnwanted(state, file, result.deletes)
  if (runtimeKeys.length === 0) return
  for (const { host, path } of file.routes) {
    if (++steps % STEP === 0) yield
    if (state.has(routeKey({ origin: 'runtime', host, path })))
      result.conflicts.push(routeName({ host, path }))
  }
  for (const key of runtimeKeys) {
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

function* findUnwanted(state: RouteState, { routes }: NewFile, into: string[]): Generator<void> {
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

/** Targets whose encoding is kept: most files have many routes of few, some as many as routes. None that is longer. */
const KEPT = 1_024
const LONGEST_KEPT = 1_024
/** The tags of `created` and `generation`, which are numbers. */
const CREATED = 14 << 3
const GENERATION = 15 << 3
/** Bytes that a number of either has: of more, it is for who decodes it to say what it is. */
const NUMBER = 7

/** Says of most routes that are stored with a target that they are, from their bytes: none has to be decoded for it. */
export class StoredTargets {
  readonly #state: RouteState
  readonly #kept = new Map<string, Uint8Array>()

  constructor(state: RouteState) {
    this.#state = state
  }

  /** True: the route is there, with this target. False: it may be, or not. */
  has(key: string, target: RouteTarget): boolean {
    if (this.#state.isStored_ === undefined) return false
    const wanted = this.#encoded(target)
    return this.#state.isStored_(
      key,
      (bytes, start, end) =>
        beginsWith(bytes, start, end, wanted) && areStamps(bytes, start + wanted.length, end),
    )
  }

  #encoded(target: RouteTarget): Uint8Array {
    const key = targetKey(target)
    const kept = this.#kept.get(key)
    if (kept !== undefined) return kept
    const encoded = fdbroker.proxy.Route.encode(targetFields(target)).finish()
    if (encoded.length > LONGEST_KEPT) return encoded
    if (this.#kept.size >= KEPT) this.#kept.clear()
    this.#kept.set(key, encoded)
    return encoded
  }
}

function beginsWith(bytes: Uint8Array, start: number, end: number, wanted: Uint8Array): boolean {
  const { length } = wanted
  if (end - start < length) return false
  for (let i = 0; i < length; i++) if (bytes[start + i] !== wanted[i]) return false
  return true
}

/** Fields behind a target which leave it as it is: nothing but who wrote it, and when. */
function areStamps(bytes: Uint8Array, start: number, end: number): boolean {
  for (let at = start; at < end; at++) {
    const tag = bytes[at++]
    if (tag !== CREATED && tag !== GENERATION) return false
    const last = Math.min(end, at + NUMBER) - 1
    while (at < last && bytes[at]! >= 0x80) at++
    if (at >= end || bytes[at]! >= 0x80) return false
  }
  return true
}
