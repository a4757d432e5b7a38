/** Names and passwords of clients (RFC 7617): the key `routes[].basicAuth`. */
import { nodeCrypto } from '../../base/lazy.js'
import { shortJson } from '../../checks/place.js'
import { optional, required } from '../../checks/shape.js'
import { InvalidValue, named, refine, text } from '../../checks/values.js'
import type { Decision } from '../../relay/index.js'

export interface BasicAuth {
  readonly realm: string
  /** Sorted by name; the password's SHA-256, hexadecimal. */
  readonly users: readonly (readonly [name: string, sha256: string])[]
}

/** More would take too long for each request: all are compared, so that the time tells nothing. */
const MOST_USERS = 100

function realm(given: string): string | InvalidValue {
  return /^[\x20\x21\x23-\x5b\x5d-\x7e]{1,100}$/.test(given)
    ? given
    : new InvalidValue(`${shortJson(given)} is no realm: write visible ASCII without quotes and backslashes`)
}

function userName(given: string): string | InvalidValue {
  return /^[^:\p{Control}\p{Surrogate}]{1,100}$/u.test(given)
    ? given
    : new InvalidValue(`${shortJson(given)} is no name of a user: it must be short, and have no colon`)
}

function passwordHash(given: string): string | InvalidValue {
  return /^[0-9a-f]{64}$/i.test(given)
    ? given.toLowerCase()
    : new InvalidValue('this is no SHA-256 of a password: write its 64 hexadecimal digits')
}

const users = refine(named(userName, text('the SHA-256 of a password', passwordHash)), (given, place) => {
  if (given.length === 0) return place.wrong('there is no user; give at least one')
  if (given.length > MOST_USERS)
    return place.wrong(`there are ${given.length} users, at most ${MOST_USERS} are allowed`)
  return given.toSorted(([a], [b]) => (a < b ? -1 : 1))
})

export const basicAuthShape = {
  realm: optional(
    text('a realm', realm),
    'restricted',
    'name that browsers show when they ask for the password',
  ),
  users: required(users, 'names of users, and the SHA-256 of their passwords'),
}

/** Returns null for a value that is not that of one field of the scheme Basic. */
function credentialsIn(authorization: string | undefined): [name: string, password: string] | null {
  const [, token] = /^Basic +([A-Za-z0-9+/]+={0,2})$/i.exec(authorization ?? '') ?? []
  if (token === undefined) return null
  const text = Buffer.from(token, 'base64').toString()
  const colon = text.indexOf(':')
  return colon < 0 ? null : [text.slice(0, colon), text.slice(colon + 1)]
}

function digestOf(text: string): Buffer {
  return nodeCrypto().createHash('sha256').update(text).digest()
}

/** Lets requests with the name and password of one of the users pass. */
export class BasicAuthGuard {
  readonly #users: readonly { readonly name: Buffer; readonly password: Buffer }[]
  readonly #refusal: Decision

  constructor({ realm, users }: BasicAuth) {
    this.#users = users.map(([name, sha256]) => ({
      name: digestOf(name),
      password: Buffer.from(sha256, 'hex'),
    }))
    const challenge = `Basic realm="${realm}", charset="UTF-8"`
    const headers = [['WWW-Authenticate', challenge]] as const
    this.#refusal = { kind: 'refuse', status: 401, reason: 'unauthorized', headers }
  }

  /** Returns the answer to a request that must not pass, or the name of its user. Takes as long for each name and password of the same lengths. */
  check(authorization: string | undefined): Decision | string {
    const given = credentialsIn(authorization)
    if (given === null) return this.#refusal
    const { timingSafeEqual } = nodeCrypto()
    const [name, password] = given.map(digestOf)
    let fits = 0
    for (const user of this.#users) {
      const isName = Number(timingSafeEqual(name!, user.name))
      fits |= isName & Number(timingSafeEqual(password!, user.password))
    }
    return fits === 1 ? given[0] : this.#refusal
  }
}
