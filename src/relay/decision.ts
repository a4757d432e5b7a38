import type { RequestHead } from '../http1/index.js'
import type { Destination, Origin } from './destination.js'
import type { FieldRules } from './field-rules.js'

/** The options of all exchanges of one route; prepared once. */
export interface ExchangeOptions {
  fields?: FieldRules
  host?: string
  /** The server is a proxy too: clients and it may authenticate to each other. */
  proxyAuthentication?: boolean
  /** Milliseconds; left out: the relay's. */
  connectTimeout?: number
  responseTimeout?: number
}

export interface SendOn {
  kind: 'upstream'
  /** Names the route in a connection's record, so that another process finds it again. */
  name: string
  /** The server to try next, null when there is none left. `tried` could not be reached for this request. */
  pick(tried: readonly Destination[]): Destination | null
  options?: ExchangeOptions
}

/** Answer here. Content-Length, Date and Connection are added. */
export interface Respond {
  kind: 'respond'
  status: number
  headers?: readonly (readonly [name: string, value: string])[]
  body?: string | Buffer
}

/** Answer here with an error: the reason is the body, and what the access log says. */
export interface Refuse {
  kind: 'refuse'
  status: number
  reason: string
  headers?: readonly (readonly [name: string, value: string])[]
}

export type Decision = SendOn | Respond | Refuse

/** Called once for each request. Should not throw; if it does the client gets a 500. */
export type Router = (head: RequestHead, origin: Origin) => Decision
