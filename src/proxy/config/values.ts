import { isIP } from 'node:net'
import { shortJson } from '../../checks/place.js'
import { InvalidValue } from '../../checks/values.js'
import { headerName } from '../routes/header-name.js'

/** A range for `net.BlockList`. */
export interface AddressRange {
  address: string
  prefix: number
  family: 'ipv4' | 'ipv6'
}

export function viaName(given: string): string | InvalidValue {
  return /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$/.test(given)
    ? given
    : new InvalidValue(`${shortJson(given)} is not a name for Via (a token, at most 128 characters)`)
}

export function addressRange(given: string): AddressRange | InvalidValue {
  const [, address = '', bits] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(given) ?? []
  const version = isIP(address)
  const maxPrefix = version === 4 ? 32 : 128
  const prefix = bits === undefined ? maxPrefix : Number(bits)
  if (version === 0 || prefix > maxPrefix)
    return new InvalidValue(
      `${shortJson(given)} is not an address or network (10.0.0.1, 10.0.0.0/8, fd00::/8)`,
    )
  return { address, prefix, family: version === 4 ? 'ipv4' : 'ipv6' }
}

/** Response headers that say something about the answer itself: with the pid as value they would break clients and caches. */
const OF_THE_ANSWER: ReadonlySet<string> = new Set([
  ...[
    'accept-ranges',
    'age',
    'allow',
    'alt-svc',
    'cache-control',
    'date',
    'etag',
    'expires',
    'last-modified',
  ],
  ...['link', 'location', 'pragma', 'refresh', 'retry-after', 'set-cookie', 'strict-transport-security'],
  ...['vary', 'www-authenticate'],
])
const OF_THE_CONTENT = /^(?:access-control|content|cross-origin|sec)-/

/** Checks the name of the response header that carries the pid. */
export function instanceHeaderName(text: string): string | InvalidValue {
  const name = headerName(text)
  const lower = text.toLowerCase()
  if (name instanceof InvalidValue || (!OF_THE_ANSWER.has(lower) && !OF_THE_CONTENT.test(lower))) return name
  return new InvalidValue(
    `${shortJson(text)} has a meaning for clients and caches; choose another header, such as X-Instance`,
  )
}
