export interface RelayCounts {
  /** Between two requests, nothing read. */
  idle: number
  /** A request head is incomplete. */
  head: number
  /** The request's body is arriving; no answer yet. */
  request: number
  /** The server has the request; nothing of the answer was passed on. */
  waiting: number
  /** The answer's body is being sent. */
  response: number
  events: number
  webSocket: number
  /** Requests: CONNECT, and upgrades to anything but WebSocket. */
  tunnel: number
  tcp: number
  /** The last answer is under way, or the client has not closed its side yet. */
  closing: number
}

export type ConnectionKind = keyof RelayCounts

/** Connections closed because the drain's time limit had passed. */
export interface ClosedKind {
  /** `http` and `https`: a connection with one request after the other. */
  readonly kind: 'http' | 'https' | 'events' | 'webSocket' | 'tunnel' | 'tcp'
  /** `refused`: the serving process did not take it. `closing`: it had its last answer and did not close. Others: what it was doing. */
  readonly reason: 'refused' | 'idle' | 'half-request' | 'answering' | 'closing' | 'open'
}

export interface ClosedCount extends ClosedKind {
  readonly count: number
}

const REASONS: Readonly<Partial<Record<ConnectionKind, ClosedKind['reason']>>> = {
  idle: 'idle',
  head: 'half-request',
  request: 'half-request',
  waiting: 'answering',
  response: 'answering',
  closing: 'closing',
}

export function closedKind(kind: ConnectionKind, scheme: 'http' | 'https', refused: boolean): ClosedKind {
  const reason = REASONS[kind]
  return {
    kind: reason === undefined ? (kind as ClosedKind['kind']) : scheme,
    reason: refused ? 'refused' : (reason ?? 'open'),
  }
}

export function countKinds(connections: Iterable<{ kind: ConnectionKind }>): RelayCounts {
  const counts = {
    idle: 0,
    head: 0,
    request: 0,
    waiting: 0,
    response: 0,
    events: 0,
    webSocket: 0,
    tunnel: 0,
    tcp: 0,
    closing: 0,
  }
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
