import type { RequestHead } from '../http1/index.js'
import type { ClientOrigin, Destination } from './destination.js'
import type { FieldRules } from './field-rules.js'

/** Options of a route. */
export interface ExchangeOptions {
  fields?: FieldRules
  host?: string
  /** Returns path and query for the server, or the same if there is no path (`*`, CONNECT). Default: as the client has sent them. */
  resource?(sent: string): string
  /** Forwards Proxy-Authenticate and Proxy-Authorization, for a server that is itself a proxy. */
  proxyAuthentication?: boolean
  /** Headers of the relay's own response, if it gives one instead of the server. Only with edits of responses in `fields`. */
  ownHeaders?: Respond['headers']
  /** Milliseconds; default: {@link RelayTimeouts.connect}. */
  connectTimeout?: number
  /** Milliseconds; default: {@link RelayTimeouts.response}. */
  responseTimeout?: number
}

/** A service that decides whether a request may pass. */
export interface Authorization {
  readonly service: Forward
  /** Path and query of the request to the service. */
  readonly target: string
  /** The limit for its answer, in milliseconds. */
  readonly timeout: number
  /** Lower-case names of the headers that the service gets; null: all but those about the contents of the resource (`Range`, `If-Match` and the like). */
  readonly requestHeaders: readonly string[] | null
  /** Headers of an answer of class 2xx that the request gets instead of its own. */
  readonly responseHeaders: readonly string[]
}

/** The part of each {@link Decision}. */
interface Common {
  /** See {@link ExchangeReport.unlogged}. */
  unlogged?: boolean
  /** See {@link ExchangeReport.user}. */
  user?: string
}

export interface Forward extends Common {
  kind: 'upstream'
  /** Asked before the relay chooses a server. Default: each request passes. */
  authorization?: Authorization | undefined
  /** Names the route in the record of a connection that moves: the next process finds its own route by this name. */
  name: string
  /**
   * Returns the next server to try, or null if no server is left. `tried`: servers to which connecting failed, that died with the request, or that were at their
   * limit of connections; `full`: how many of them were only that.
   */
  pick(tried: readonly Destination[], full?: number): Destination | null
  /** Called before another server gets a request whose server has died: returns whether it may. Default: it may. */
  mayResend?(): boolean
  options?: ExchangeOptions
  /** Lets a request wait while all servers are at their limit of connections. Default: it fails. */
  queue?: RequestQueue | undefined
  /** Gives clients a cookie that names their server. */
  sticky?: Sticky | undefined
  /** The key of the server that the cookie of the request names. */
  wanted?: string
}

/** The requests that wait for one of the servers of an upstream, in the order in which they came. */
export interface RequestQueue {
  /** The limit of requests of this process, and of the time that each of them waits, in milliseconds. */
  readonly most: number
  readonly ms: number
  /** How many requests wait now. Changed by the relay. */
  waiting: number
  /** The servers that may get a waiting request; `failed` could not serve it. */
  servers(failed?: ReadonlySet<string>): readonly Destination[]
  /** Called when a request that has waited goes to this server. */
  taken?(server: Destination): void
  /** Calls `look` when {@link servers} may have changed. Returns a function that ends this. */
  watch(look: () => void): () => void
  /** Called for each request: `served` when it gets a server, `late` after its time, `full` if it found no place. */
  ended(how: 'served' | 'late' | 'full'): void
}

export interface Sticky {
  /** Returns the line of a response that makes the client come back to the server with this key. */
  lineFor(destination: string): string
}

/** The relay sends this response, and adds Content-Length, Date and Connection. */
export interface Respond extends Common {
  kind: 'respond'
  /** As {@link Forward.authorization}. */
  authorization?: Authorization | undefined
  /** As {@link ExchangeOptions.ownHeaders}, for a request that does not pass. */
  ownHeaders?: Respond['headers']
  status: number
  headers?: readonly (readonly [name: string, value: string])[]
  body?: string | Buffer
}

/** The relay responds with an error. `reason` becomes the body, and appears in the access log. */
export interface Refuse extends Common {
  kind: 'refuse'
  status: number
  reason: string
  headers?: readonly (readonly [name: string, value: string])[]
}

/** Returns the body of an error of the relay. `requestId`: the number of the request, or ''. */
export type ErrorBody = (error: {
  readonly status: number
  readonly reason: string
  readonly requestId: string
}) => { readonly type: string; readonly body: Buffer } | undefined

export type Decision = Forward | Respond | Refuse

/** Decides what the relay does with a request. `client`: the client's IP address, or ''. If the router throws, the client gets 500. */
export type Router = (head: RequestHead, origin: ClientOrigin, client: string) => Decision
