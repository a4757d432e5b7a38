import { ShardedMap } from '../../base/large-collections.js'
import { type Origin, overlayKey, parseOverlayKey } from '../entries/overlay.js'
import { splitConditions, writtenConditions } from './conditions.js'
import { ANY_SEGMENT } from './path.js'

export interface RouteId {
  origin: Origin
  host: string
  /** With the conditions of the route, see {@link splitConditions}. */
  path: string
}

/** Returns the route's key in the state: `file:HOST/PATH` or `runtime:HOST/PATH`, with canonical host and path. */
export function routeKey({ origin, host, path }: RouteId): string {
  return overlayKey(origin, `${host}${path}`)
}

/** Returns null for a kind of key that this version does not know. */
export function parseRouteKey(key: string): RouteId | null {
  const { origin, name } = parseOverlayKey(key) ?? {}
  const slash = name?.indexOf('/') ?? -1
  if (origin === undefined || name === undefined || slash <= 0) return null
  const path = name.slice(slash)
  const { conditions } = splitConditions(path)
  if (conditions !== '' && writtenConditions(conditions) === null) return null
  return { origin, host: name.slice(0, slash), path }
}

/** Returns the route's name in messages and lists, for example `example.com/api`. */
export function routeName({ host, path }: { host: string; path: string }): string {
  return `${host}${path}`
}

/** A node in a tree of one host's paths. A node with one child has no map, which saves memory: the child knows its segment. */
export class PathNode<T> {
  readonly segment: string
  /** The value of the route whose path ends at this node. */
  value: T | undefined = undefined
  origin: Origin | null = null
  children: PathNode<T> | ShardedMap<PathNode<T>> | null = null

  constructor(segment: string) {
    this.segment = segment
  }

  get empty(): boolean {
    return this.origin === null && this.children === null
  }

  child(segment: string): PathNode<T> | undefined {
    const { children } = this
    if (children === null) return undefined
    if (children instanceof PathNode) return children.segment === segment ? children : undefined
    return children.get(segment)
  }

  addChild(segment: string): PathNode<T> {
    const child = new PathNode<T>(segment)
    const { children } = this
    if (children === null) this.children = child
    else if (children instanceof PathNode) {
      const map = new ShardedMap<PathNode<T>>()
      map.set(children.segment, children)
      map.set(segment, child)
      this.children = map
    } else children.set(segment, child)
    return child
  }

  removeChild(segment: string): void {
    const { children } = this
    if (children instanceof PathNode) {
      if (children.segment === segment) this.children = null
    } else if (children !== null) {
      children.delete(segment)
      if (children.size === 1) for (const last of children.values()) this.children = last
    }
  }
}

/**
 * Returns the value of the route with the longest prefix of `path` up to `end`. The path must be normalised, but may end with a slash. `choose` returns the
 * value of a node for the request, undefined if it has none; default: that of the node itself.
 */
export function longestPrefix<T>(
  root: PathNode<T>,
  path: string,
  end: number,
  choose?: (node: PathNode<T>) => T | undefined,
): T | undefined {
  let node = root
  let best = choose === undefined ? root.value : choose(root)
  for (let from = 1; from < end; ) {
    const { children } = node
    if (children === null) break
    let to = path.indexOf('/', from)
    if (to < 0 || to > end) to = end
    let next: PathNode<T> | undefined
    if (children instanceof PathNode) {
      const { segment } = children
      if (segment.length === to - from && path.startsWith(segment, from)) next = children
    } else next = children.get(path.slice(from, to))
    if (next === undefined) break
    node = next
    const value = choose === undefined ? node.value : choose(node)
    if (value !== undefined) best = value
    from = to + 1
  }
  return best
}

/**
 * As {@link longestPrefix}, in a tree that has segments {@link ANY_SEGMENT}. Among the routes that match, the one with the most segments wins, then the one
 * that has a name where the others first have `*`. Follows all matches at once, one segment after the other: a node is visited at most once.
 */
export function longestPattern<T>(
  root: PathNode<T>,
  path: string,
  end: number,
  choose: (node: PathNode<T>) => T | undefined = node => node.value,
): T | undefined {
  let best = choose(root)
  /** In the order in which they win. */
  let nodes = [root]
  for (let from = 1; from < end && nodes.length > 0; ) {
    let to = path.indexOf('/', from)
    if (to < 0 || to > end) to = end
    const segment = path.slice(from, to)
    const next: PathNode<T>[] = []
    for (const node of nodes) {
      const named = node.child(segment)
      if (named !== undefined) next.push(named)
      const any = node.child(ANY_SEGMENT)
      if (any !== undefined) next.push(any)
    }
    for (const node of next) {
      const value = choose(node)
      if (value === undefined) continue
      best = value
      break
    }
    nodes = next
    from = to + 1
  }
  return best
}

/** Returns the node of a canonical path, and creates missing nodes. */
export function ensureNode<T>(root: PathNode<T>, path: string): PathNode<T> {
  let node = root
  for (let from = 1; from < path.length; ) {
    const slash = path.indexOf('/', from)
    const segment = slash < 0 ? path.slice(from) : path.slice(from, slash)
    node = node.child(segment) ?? node.addChild(segment)
    from += segment.length + 1
  }
  return node
}

/** Returns the nodes from the root to the end of a canonical path, and to its child `last` unless that is ''; or null if a node is missing. */
export function nodesAlong<T>(root: PathNode<T>, path: string, last = ''): PathNode<T>[] | null {
  const nodes = [root]
  const segments = path === '/' ? [] : path.slice(1).split('/')
  for (const segment of last === '' ? segments : [...segments, last]) {
    const node = nodes.at(-1)!.child(segment)
    if (node === undefined) return null
    nodes.push(node)
  }
  return nodes
}

export function prune<T>(nodes: PathNode<T>[]): void {
  for (let i = nodes.length - 1; i > 0; i--) {
    if (!nodes[i]!.empty) return
    nodes[i - 1]!.removeChild(nodes[i]!.segment)
  }
}
