/** What the connections are doing. */
export interface RelayCounts {
  /** Between two requests, nothing read. */
  idle: number
  /** Part of a request head has come. */
  head: number
  /** The request's body is coming, the answer's head has not. */
  request: number
  /** The request is with the server, nothing of the answer has been passed on. */
  waiting: number
  /** The answer's body is under way. */
  response: number
  /** Of a request: WebSocket and other upgrades, CONNECT. */
  tunnel: number
  /** Whole TCP connections. */
  tcp: number
  /** The last answer is under way, or the client has not closed its side yet. */
  closing: number
}

export type ConnectionKind = keyof RelayCounts

export function countKinds(connections: Iterable<{ kind: ConnectionKind }>): RelayCounts {
  const counts = { idle: 0, head: 0, request: 0, waiting: 0, response: 0, tunnel: 0, tcp: 0, closing: 0 }
  for (const connection of connections) counts[connection.kind]++
  return counts
}
