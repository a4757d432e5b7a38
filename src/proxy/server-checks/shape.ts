/** Every key of `upstreams.NAME.check` in the configuration file. */
import { type Place, shortJson } from '../../checks/place.js'
import { absent, map, optional } from '../../checks/shape.js'
import {
  type Checked,
  duration,
  InvalidValue,
  integer,
  type Off,
  refine,
  text,
  type ValueCheck,
  type Written,
} from '../../checks/values.js'

function requestPath(given: string): string | InvalidValue {
  const [, port = '9000'] = /^\/\/[^/?]*:(\d{1,5})(?![^/?])/.exec(given) ?? []
  if (given.startsWith('//'))
    return new InvalidValue(
      `${shortJson(given)} names a host, but each server is asked: write the path alone (/health), and another port as "port: ${port}"`,
    )
  return /^\/[\x21-\x7e]*$/.test(given) && !given.includes('#')
    ? given
    : new InvalidValue(`${shortJson(given)} is not the path of a request (/health)`)
}

/** Reads a host, with or without a port. */
export function hostField(given: string): string | InvalidValue {
  return /^[\w.-]+(:\d{1,5})?$|^\[[\da-fA-F:.]+\](:\d{1,5})?$/.test(given)
    ? given
    : new InvalidValue(`${shortJson(given)} is not a host (app.example.com)`)
}

export const checkShape = {
  http: absent(
    text('a path', requestPath),
    null,
    'path of a GET that each server must answer; without it the server must accept a connection',
  ),
  status: absent(integer(100, 599), null, 'the status of the answer; default: 2xx or 3xx'),
  host: absent(text('a host', hostField), null, '`Host` of the GET; default: the server’s'),
  port: absent(integer(1, 65_535), null, 'the port that is asked; default: the server’s'),
  interval: optional(duration(10), '2s', 'time between an answer and the next check'),
  timeout: optional(duration(1), '1s', 'limit of one check'),
  rise: optional(integer(1, 1000), 2, 'passed checks in a row after which a server gets requests again'),
  fall: optional(integer(1, 1000), 3, 'failed checks in a row after which it gets none'),
}
const checkMap = map(checkShape)

/** The active check of the servers of an upstream. Times in milliseconds. */
export interface ServerCheckConfig extends Checked<typeof checkMap> {}

function ofRequests(given: ServerCheckConfig, place: Place): ServerCheckConfig | undefined {
  if (given.http !== null) return given
  for (const key of ['status', 'host'] as const)
    if (given[key] !== null) return place.at(key).wrong('it is valid only with "http: /PATH"; leave it out')
  return given
}

const whole = refine(checkMap, ofRequests)

/** `check: http:/health` is short for `check: { http: /health }`, and `check: tcp` for a check without keys. */
export const serverCheck: ValueCheck<ServerCheckConfig | null, string | Off | Written<typeof checkMap>> = (
  value,
  place,
) => {
  if (value === 'off' || value === false) return null
  if (typeof value !== 'string') return whole(value, place)
  if (value === 'tcp') return whole({}, place)
  if (!value.startsWith('http:'))
    return place.wrong(`${shortJson(value)} is not a check; write http:/health, tcp or a map`)
  const path = requestPath(value.slice('http:'.length))
  return path instanceof InvalidValue ? place.wrong(path.why) : whole({ http: path }, place)
}
