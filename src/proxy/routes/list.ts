import { type Origin, parseRouteKey, routeKey } from './key.js'
import { type RouteState, targetOf } from './section.js'
import type { RouteTarget } from './target.js'

export interface ListedRoute {
  host: string
  path: string
  origin: Origin
  /** Of the file, and kept out of force by one made at run time. */
  shadowed: boolean
  /** null: made by a newer version, not served by this one. */
  target: RouteTarget | null
  /** Milliseconds since 1970. */
  created: number
  generation: number
}

/** Null: what a newer version has made, or what is gone. */
export function listedRoute(state: RouteState, key: string): ListedRoute | null {
  const id = parseRouteKey(key)
  const stored = id && state.get(key)
  if (!id || !stored) return null
  const { host, path, origin } = id
  const shadowed = origin === 'file' && state.has(routeKey({ origin: 'runtime', host, path }))
  const { created, generation } = stored
  return { host, path, origin, shadowed, target: targetOf(stored), created, generation }
}
