import { shortJson } from '../../checks/place.js'
import { InvalidValue } from '../../checks/values.js'
import { headerName } from '../routes/header-name.js'

export function viaName(given: string): string | InvalidValue {
  return /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$/.test(given)
    ? given
    : new InvalidValue(`${shortJson(given)} is not a name for Via (a token, at most 128 characters)`)
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
