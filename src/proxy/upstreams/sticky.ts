/** Cookies that lead a client to the same server: the key `sticky` of an upstream. */
import { nodeCrypto } from '../../base/lazy.js'
import { shortJson } from '../../checks/place.js'
import { optional, required, shortFor } from '../../checks/shape.js'
import { boolean, type Checked, duration, InvalidValue, orOff, text } from '../../checks/values.js'
import type { Sticky } from '../../relay/index.js'
import { cookieOf } from './balancing.js'

const NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}$/

function cookieName(given: string): string | InvalidValue {
  return NAME.test(given) ? given : new InvalidValue(`${shortJson(given)} is not the name of a cookie (edge)`)
}

export const stickyShape = {
  cookie: required(text('the name of a cookie', cookieName), 'name of the cookie'),
  maxAge: optional(
    orOff(duration(1000)),
    'off',
    'how long browsers keep the cookie; `off`: until they are closed',
  ),
  secure: optional(boolean, false, 'whether browsers send it over TLS only'),
}

/** `sticky: edge` is short for `sticky: { cookie: edge }`. */
export const sticky = orOff(shortFor('cookie', stickyShape))
export type StickyConfig = NonNullable<Checked<typeof sticky>>

/** The cookies of one upstream. Every process and version gives a server the same value, which never changes. */
export class StickyCookies implements Sticky {
  readonly config: StickyConfig
  readonly #attributes: string
  readonly #addresses = new Map<string, string>()
  readonly #values = new Map<string, string>()

  constructor(config: StickyConfig, servers: Iterable<string>) {
    this.config = config
    const { maxAge, secure } = config
    const age = maxAge === null ? '' : `; Max-Age=${Math.round(maxAge / 1000)}`
    this.#attributes = `; Path=/; HttpOnly${age}${secure ? '; Secure' : ''}`
    for (const server of servers) {
      const value = cookieValue(server)
      this.#addresses.set(value, server)
      this.#values.set(server, value)
    }
  }

  /** Returns the server that the cookies of a request name; undefined if there is none. */
  serverOf(cookies: string | undefined): string | undefined {
    return this.#addresses.get(cookieOf(cookies, this.config.cookie) ?? '')
  }

  lineFor(server: string): string {
    // A request that has moved here may have a server that is gone from the configuration.
    const value = this.#values.get(server) ?? cookieValue(server)
    return `Set-Cookie: ${this.config.cookie}=${value}${this.#attributes}\r\n`
  }
}

/** Does not tell clients the address of the server. */
function cookieValue(server: string): string {
  return nodeCrypto().createHash('sha256').update(server).digest('hex').slice(0, 16)
}
