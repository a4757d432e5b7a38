export type RouteTarget = UpstreamTarget | RespondTarget

export interface UpstreamTarget {
  kind: 'upstream'
  upstream: string
  /** CONNECT requests are passed on too. */
  connect: boolean
  changes?: RouteChanges
}

/** Without empty parts, so that equal changes look equal. */
export interface RouteChanges {
  host?: string
  request?: FieldChanges
  response?: FieldChanges
}

export interface FieldChanges {
  set: [name: string, value: string][]
  remove: string[]
}

/** Undefined: no change. */
export function routeChanges(
  host: string | undefined,
  request: FieldChanges | undefined,
  response: FieldChanges | undefined,
): RouteChanges | undefined {
  const some = (part: FieldChanges | undefined) =>
    part !== undefined && part.set.length + part.remove.length > 0
  const changes: RouteChanges = {
    ...(host !== undefined && host !== '' && { host }),
    ...(some(request) && { request: request! }),
    ...(some(response) && { response: response! }),
  }
  return Object.keys(changes).length > 0 ? changes : undefined
}

export interface RespondTarget {
  kind: 'respond'
  status: number
  /** UTF-8. */
  body: string
  headers: [name: string, value: string][]
}

/** Equal keys mean equal targets. */
export function targetKey(target: RouteTarget): string {
  if (target.kind === 'upstream') {
    const { upstream, connect, changes } = target
    return `${connect ? '+' : '-'}${changes === undefined ? '' : JSON.stringify(changes)} ${upstream}`
  }
  const { status, headers, body } = target
  return `${status} ${headers.length === 0 ? '[]' : JSON.stringify(headers)} ${body}`
}

export function sameTarget(a: RouteTarget, b: RouteTarget): boolean {
  return targetKey(a) === targetKey(b)
}
