import { ShardedMap } from '../../base/large-collections.js'
import { ORIGINS, type Origin } from '../entries/overlay.js'
import { type ConditionFacts, Conditions, type RequestPlace, splitConditions } from './conditions.js'
import { requestHost, splitScope } from './host.js'
import { ANY_SEGMENT, plainEnd, readingsWithEnd } from './path.js'
import {
  ensureNode,
  longestPattern,
  longestPrefix,
  nodesAlong,
  PathNode,
  prune,
  type RouteId,
  routeKey,
} from './path-tree.js'

export const NO_ROUTE = Symbol('no route')
/** The client gets 400: its path is one that path.ts refuses, or the path's readings match different routes. */
export const AMBIGUOUS_PATH = Symbol('ambiguous path')

export type RouteMatch<T> = T | typeof NO_ROUTE | typeof AMBIGUOUS_PATH

/**
 * Finds the route of a request. A route of the request's listener wins over routes of all listeners. The most specific host wins (exact, then the longest `*.suffix`, then `*`), then the longest path (see {@link longestPattern}), then a route
 * whose conditions the request fulfils, then a route made at run time, then one of the source. The cost of a lookup depends on the number of path segments, not on the number of
 * routes, except of those with conditions and the same path.
 */
export class RouteTable<T extends NonNullable<unknown>> {
  #hosts = new ShardedMap<PathNode<T>>()
  /** The roots of `*.suffix` patterns, by suffix. */
  #wildcards = new ShardedMap<PathNode<T>>()
  #any = new PathNode<T>('')
  /** Values of routes that another origin's overrides, by route key. */
  #shadowed = new ShardedMap<T>()
  #size = 0
  /** The routes with conditions below the node of their path, in the order in which they are tried. The own node of each is a child of it. */
  readonly #conditional = new Map<PathNode<T>, ConditionalRoute<T>[]>()
  /** How many routes below a root have {@link ANY_SEGMENT}, by root. */
  readonly #patterns = new Map<PathNode<T>, number>()
  readonly #longest: typeof longestPrefix<T> = (root, ...path) =>
    this.#patterns.has(root) ? longestPattern(root, ...path) : longestPrefix(root, ...path)
  /** The routes that apply to one listener only, by its name. */
  readonly #scopes = new Map<string, RouteTable<T>>()

  get size(): number {
    let size = this.#size
    for (const scope of this.#scopes.values()) size += scope.size
    return size
  }

  /** The number of routes that another origin's overrides. */
  get shadowed(): number {
    let { size } = this.#shadowed
    for (const scope of this.#scopes.values()) size += scope.shadowed
    return size
  }

  /** `host` is the value of Host. `target` is the request's target in origin form (`/path?query`) or `*`; use `/` for CONNECT. `client` is the client's IP address. Without `facts` no route with conditions is found. */
  lookup(host: string, target: string, listener = '', facts?: ConditionFacts, client = ''): RouteMatch<T> {
    if (this.#scopes.size > 0) {
      const found = this.#scopes.get(listener)?.lookup(host, target, listener, facts, client) ?? NO_ROUTE
      if (found !== NO_ROUTE) return found
    }
    const name = requestHost(host)
    const end = plainEnd(target)
    // Most tables have no conditions, and most paths are plain: such a request makes no object.
    return end >= 0 && (facts === undefined || this.#conditional.size === 0)
      ? this.#match(name, target, end, undefined)
      : this.#lookUpAny(name, target, end, facts, { listener, client })
  }

  #lookUpAny(
    name: string,
    target: string,
    end: number,
    facts: ConditionFacts | undefined,
    from: Pick<RequestPlace, 'listener' | 'client'>,
  ): RouteMatch<T> {
    const asked = this.#conditional.size === 0 ? undefined : facts
    const choiceFor = (path: string, slash: boolean) =>
      asked === undefined ? undefined : this.#choice(asked, { ...from, path, slash })
    if (end >= 0) {
      const slash = end > 1 && target.charCodeAt(end - 1) === SLASH
      return this.#match(name, target, end, choiceFor(target.slice(0, slash ? end - 1 : end), slash))
    }
    const paths = readingsWithEnd(target)
    if (paths === null) return AMBIGUOUS_PATH
    const [first, ...others] = paths.map(({ path, slash }) =>
      this.#match(name, path, path.length, choiceFor(path, slash)),
    )
    return others.some(other => other !== first) ? AMBIGUOUS_PATH : first!
  }

  /** Returns a function that chooses among the routes of a path by their conditions. */
  #choice(facts: ConditionFacts, around: RequestPlace): (node: PathNode<T>) => T | undefined {
    return node => {
      for (const { conditions, own } of this.#conditional.get(node) ?? [])
        if (conditions.fit(facts, around)) return own.value
      return node.value
    }
  }

  /** `path` must be normalised up to `end`. */
  #match(
    name: string,
    path: string,
    end: number,
    choose: ((node: PathNode<T>) => T | undefined) | undefined,
  ): T | typeof NO_ROUTE {
    const longest = this.#patterns.size === 0 ? longestPrefix : this.#longest
    const exact = this.#hosts.get(name)
    if (exact !== undefined) {
      const found = longest(exact, path, end, choose)
      if (found !== undefined) return found
    }
    if (this.#wildcards.size > 0 && name.length <= MAX_NAME_LENGTH) {
      for (let dot = name.indexOf('.', 1); dot > 0; dot = name.indexOf('.', dot + 1)) {
        const below = this.#wildcards.get(name.slice(dot + 1))
        if (below === undefined) continue
        const found = longest(below, path, end, choose)
        if (found !== undefined) return found
      }
    }
    return longest(this.#any, path, end, choose) ?? NO_ROUTE
  }

  #countPattern(root: PathNode<T>, path: string, by: 1 | -1): void {
    if (!path.split('/').includes(ANY_SEGMENT)) return
    const count = (this.#patterns.get(root) ?? 0) + by
    if (count > 0) this.#patterns.set(root, count)
    else this.#patterns.delete(root)
  }

  /** Host and path must be canonical (`canonicalHost`, `canonicalPath`). */
  put(id: RouteId, value: T): void {
    const { origin, path } = id
    const { listener, host } = splitScope(id.host)
    if (listener !== null) {
      this.#makeScope(listener).put({ origin, host, path }, value)
      return
    }
    const { path: plain, conditions } = splitConditions(path)
    const asked = conditions === '' ? null : new Conditions(conditions)
    const root = this.#makeRoot(host)
    const parent = ensureNode(root, plain)
    const node = conditions === '' ? parent : (parent.child(conditions) ?? parent.addChild(conditions))
    if (node.origin === null) {
      this.#size++
      this.#countPattern(root, plain, 1)
      if (asked !== null) this.#addConditional(parent, { conditions: asked, own: node })
    } else if (node.origin !== origin) {
      if (rankOf(origin) < rankOf(node.origin)) {
        this.#shadowed.set(routeKey({ origin, host, path }), value)
        return
      }
      this.#shadowed.set(routeKey({ origin: node.origin, host, path }), node.value!)
    }
    node.value = value
    node.origin = origin
  }

  /** Removes a route. If it overrides another one, that route applies again. Returns false if the route does not exist. */
  delete(id: RouteId): boolean {
    const { origin, path } = id
    const { listener, host } = splitScope(id.host)
    if (listener !== null) return this.#scopes.get(listener)?.delete({ origin, host, path }) ?? false
    const root = this.#rootOf(host)
    const { path: plain, conditions } = splitConditions(path)
    const nodes = root && nodesAlong(root, plain, conditions)
    const node = nodes?.at(-1)
    if (!root || !nodes || !node || node.origin === null) return false
    if (node.origin !== origin) return this.#shadowed.delete(routeKey({ origin, host, path }))
    for (const lower of ORIGINS.slice(0, rankOf(origin)).reverse()) {
      const key = routeKey({ origin: lower, host, path })
      const below = this.#shadowed.get(key)
      if (below === undefined) continue
      this.#shadowed.delete(key)
      node.value = below
      node.origin = lower
      return true
    }
    node.value = undefined
    node.origin = null
    this.#size--
    this.#countPattern(root, plain, -1)
    if (conditions !== '') this.#removeConditional(nodes.at(-2)!, node)
    prune(nodes)
    if (root.empty) this.#drop(host)
    return true
  }

  clear(): void {
    this.#hosts = new ShardedMap()
    this.#wildcards = new ShardedMap()
    this.#any = new PathNode('')
    this.#shadowed = new ShardedMap()
    this.#size = 0
    this.#conditional.clear()
    this.#patterns.clear()
    this.#scopes.clear()
  }

  #addConditional(parent: PathNode<T>, route: ConditionalRoute<T>): void {
    const before = this.#conditional.get(parent) ?? []
    this.#conditional.set(
      parent,
      [...before, route].sort((a, b) => a.conditions.compare(b.conditions)),
    )
  }

  #removeConditional(parent: PathNode<T>, node: PathNode<T>): void {
    const left = this.#conditional.get(parent)?.filter(({ own }) => own !== node) ?? []
    if (left.length === 0) this.#conditional.delete(parent)
    else this.#conditional.set(parent, left)
  }

  #makeScope(listener: string): RouteTable<T> {
    let scope = this.#scopes.get(listener)
    if (scope === undefined) this.#scopes.set(listener, (scope = new RouteTable()))
    return scope
  }

  #rootOf(host: string): PathNode<T> | undefined {
    if (host === '*') return this.#any
    return host.startsWith('*.') ? this.#wildcards.get(host.slice(2)) : this.#hosts.get(host)
  }

  #makeRoot(host: string): PathNode<T> {
    const found = this.#rootOf(host)
    if (found) return found
    const root = new PathNode<T>('')
    if (host.startsWith('*.')) this.#wildcards.set(host.slice(2), root)
    else this.#hosts.set(host, root)
    return root
  }

  #drop(host: string): void {
    if (host.startsWith('*.')) this.#wildcards.delete(host.slice(2))
    else if (host !== '*') this.#hosts.delete(host)
  }
}

interface ConditionalRoute<T> {
  readonly conditions: Conditions
  readonly own: PathNode<T>
}

const MAX_NAME_LENGTH = 253

const SLASH = 0x2f

function rankOf(origin: Origin): number {
  return ORIGINS.indexOf(origin)
}
