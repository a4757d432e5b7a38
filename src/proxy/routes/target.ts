/** What a route does with a request. Plain data. */
export type RouteTarget = UpstreamTarget | RespondTarget

export interface UpstreamTarget {
  kind: 'upstream'
  /** Name of the upstream. */
  upstream: string
  /** CONNECT requests are passed on too. */
  connect: boolean
}

/** The proxy answers by itself. */
export interface RespondTarget {
  kind: 'respond'
  status: number
  /** UTF-8. */
  body: string
  headers: [name: string, value: string][]
}

export function sameTarget(a: RouteTarget, b: RouteTarget): boolean {
  if (a.kind === 'upstream')
    return b.kind === 'upstream' && a.upstream === b.upstream && a.connect === b.connect
  return (
    b.kind === 'respond' &&
    a.status === b.status &&
    a.body === b.body &&
    a.headers.length === b.headers.length &&
    a.headers.every(([name, value], i) => name === b.headers[i]?.[0] && value === b.headers[i]?.[1])
  )
}
