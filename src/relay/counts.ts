const NO_CONNECTIONS = {
  /** Between two requests: no byte of the next request has arrived. */
  idle: 0,
  /** The head of a request is arriving. */
  head: 0,
  /** The body of a request is arriving, and the response has not started. */
  request: 0,
  /** The request is complete, and the response has not started. */
  waiting: 0,
  /** The body of a response is being sent. */
  response: 0,
  events: 0,
  webSocket: 0,
  /** CONNECT, and upgrades to other protocols than WebSocket. */
  tunnel: 0,
  tcp: 0,
  /** A connection of HTTP/2, with any number of streams. */
  http2: 0,
  /** The relay has sent FIN after the last response; the client has not. */
  closing: 0,
}

export type RelayCounts = typeof NO_CONNECTIONS

export type ConnectionKind = keyof RelayCounts

/** Describes a connection that the relay closes because the drain's time limit has passed. */
export interface ClosedKind {
  readonly kind: 'http' | 'https' | 'http2' | 'events' | 'webSocket' | 'tunnel' | 'tcp'
  /** `refused`: the serving process refused the move. `closing`: the client did not close after the last response. `idle`, `half-request`, `answering`, `open`: what the connection was doing. `server-tls`: the connection to its server could not move. All others: why its TLS could not. */
  readonly reason: string
}

export interface ClosedCount extends ClosedKind {
  readonly count: number
}

const REASON_BY_KIND: Readonly<Partial<Record<ConnectionKind, ClosedKind['reason']>>> = {
  idle: 'idle',
  head: 'half-request',
  request: 'half-request',
  waiting: 'answering',
  response: 'answering',
  closing: 'closing',
}

/** `stays`: the reason why the connection could not move, or null. */
export function closedKind(kind: ConnectionKind, scheme: 'http' | 'https', stays: string | null): ClosedKind {
  const reason = REASON_BY_KIND[kind]
  return {
    kind: reason === undefined ? (kind as ClosedKind['kind']) : scheme,
    reason: stays ?? reason ?? 'open',
  }
}

export function countKinds(connections: Iterable<{ kind: ConnectionKind }>): RelayCounts {
  const counts = { ...NO_CONNECTIONS }
  for (const connection of connections) counts[connection.kind]++
  return counts
}

export function countClosed(all: Iterable<ClosedKind>): ClosedCount[] {
  const counts = new Map<string, ClosedCount>()
  for (const { kind, reason } of all) {
    const key = `${kind} ${reason}`
    counts.set(key, { kind, reason, count: (counts.get(key)?.count ?? 0) + 1 })
  }
  return [...counts.values()]
}
