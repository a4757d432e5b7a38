import type { ConnectionRecord, SocketRecord } from './internals.js'

/** By process, the number of its last message. */
export type Seen = Record<string, number>

export function newest(one: Seen, other: Seen): Seen {
  const seen = { ...one }
  for (const [origin, number] of Object.entries(other)) seen[origin] = Math.max(number, seen[origin] ?? 0)
  return seen
}

/** A session with everything that its next process needs. A release skips fields that it does not know. */
export interface SessionRecord extends ConnectionRecord {
  readonly sockets: readonly SocketRecord[]
  /** Namespaces to which the client connects. */
  readonly connecting: readonly { readonly namespace: string; readonly auth: object }[]
  /** The parts of an unfinished message of the client. */
  readonly unread: readonly (string | Uint8Array)[]
  /** By namespace, the number of its next acknowledgement. */
  readonly ids: Readonly<Record<string, number>>
  readonly seen: Seen
}
