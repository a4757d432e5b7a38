import type { RequestHead } from '../http1/index.js'
import type { Destination, Origin } from './destination.js'
import type { FieldRules } from './field-rules.js'

/** The options of all exchanges of one route; prepared once. */
export interface ExchangeOptions {
  fields?: FieldRules
  host?: string
  /** The server is a proxy too: it and clients may authenticate to each other. */
  proxyAuthentication?: boolean
  /** Milliseconds; default: the relay's. */
  connectTimeout?: number
  responseTimeout?: number
}

export interface SendOn {
  kind: 'upstream'
  /** Names the route in a connection's record, so that another process finds it. */
  name: string
  /** The next server to try; null: none is left. The connections to `tried` failed for this request. */
  pick(tried: readonly Destination[]): Destination | null
  options?: ExchangeOptions
}

/** Answered by the relay, which adds Content-Length, Date and Connection. */
export interface Respond {
  kind: 'respond'
  status: number
  headers?: readonly (readonly [name: string, value: string])[]
  body?: string | Buffer
}

/** Answered by the relay with an error. The reason is the body, and goes to the access log. */
export interface Refuse {
  kind: 'refuse'
  status: number
  reason: string
  headers?: readonly (readonly [name: string, value: string])[]
}

export type Decision = SendOn | Respond | Refuse

/** Called once for each request. Should not throw; if it does, the client gets a 500. */
export type Router = (head: RequestHead, origin: Origin) => Decision
