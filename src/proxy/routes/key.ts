/** A route's key in the state: `file:HOST/PATH` or `runtime:HOST/PATH`, host and path in their canonical spelling. */

/** `file`: from the configuration file, replaced with it. `runtime`: made through the control socket, survives it. */
export type Origin = 'file' | 'runtime'

export interface RouteId {
  origin: Origin
  host: string
  path: string
}

export function routeKey({ origin, host, path }: RouteId): string {
  return `${origin}:${host}${path}`
}

export function originOf(key: string): Origin | null {
  if (key.startsWith('file:')) return 'file'
  return key.startsWith('runtime:') ? 'runtime' : null
}

/** null: a key of a kind that this version does not know; it is left alone. */
export function parseRouteKey(key: string): RouteId | null {
  const origin = originOf(key)
  if (origin === null) return null
  const start = origin.length + 1
  const slash = key.indexOf('/', start)
  if (slash <= start) return null
  return { origin, host: key.slice(start, slash), path: key.slice(slash) }
}

/** How a route is called in messages and lists: `example.com/api`. */
export function routeName({ host, path }: { host: string; path: string }): string {
  return `${host}${path}`
}
