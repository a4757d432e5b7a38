import type { RouteRule } from './rule.js'

const names = new WeakMap<readonly RouteRule[], string>()

/** Gives the routes of a file a name, which no other routes ever have. Versions of one release that read the same kept file give them the same name. */
export function nameRoutes(routes: readonly RouteRule[], name: string): void {
  names.set(routes, name)
}

/** Returns null for routes without a name. */
export function nameOfRoutes(routes: readonly RouteRule[]): string | null {
  return names.get(routes) ?? null
}
