import type { UpstreamAddress } from './address.js'

/** As it was checked, with every default filled in. All times in milliseconds. */
export interface UpstreamConfig {
  name: string
  /** No address twice. */
  servers: UpstreamAddress[]
  health: {
    /** Failures in a row after which a server counts as down; null: never. */
    failures: number | null
    coolDown: number
  }
  /** Idle connections kept for each server; `age`: null is no limit. */
  keepAlive: { connections: number; idle: number; age: number | null }
  /** To each server, used and unused; null: no limit. */
  connections: number | null
  /** Other servers that are tried where nothing was sent yet. */
  retry: number
  timeouts: { connect: number; response: number }
}
