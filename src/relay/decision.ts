import type { RequestHead } from '../http1/index.js'
import type { ClientOrigin, Destination } from './destination.js'
import type { FieldRules } from './field-rules.js'

/** The options of a route, shared by all its exchanges. */
export interface ExchangeOptions {
  fields?: FieldRules
  host?: string
  /** The server is a proxy itself: lets it and the client authenticate to each other. */
  proxyAuthentication?: boolean
  /** Milliseconds; default: the relay's. */
  connectTimeout?: number
  responseTimeout?: number
}

export interface Forward {
  kind: 'upstream'
  /** The route's name in a connection's record, by which another process finds the route. */
  name: string
  /** Returns the next server to try, or null if there is none. `tried`: the servers that this request could not be sent to. */
  pick(tried: readonly Destination[]): Destination | null
  options?: ExchangeOptions
}

/** The relay responds itself, and adds Content-Length, Date and Connection. */
export interface Respond {
  kind: 'respond'
  status: number
  headers?: readonly (readonly [name: string, value: string])[]
  body?: string | Buffer
}

/** The relay responds with an error. The reason becomes the body, and appears in the access log. */
export interface Refuse {
  kind: 'refuse'
  status: number
  reason: string
  headers?: readonly (readonly [name: string, value: string])[]
}

export type Decision = Forward | Respond | Refuse

/** Decides about one request. If it throws, the client gets a 500. */
export type Router = (head: RequestHead, origin: ClientOrigin) => Decision
