import {
  absent,
  duration,
  type Fields,
  fresh,
  group,
  integer,
  map,
  name,
  named,
  optional,
  orOff,
  type Place,
  refine,
  required,
  text,
  unique,
} from '../../config/check.js'
import { takesRequests, upstreamAddress } from '../upstreams/address.js'

const healthShape = {
  failures: optional(
    orOff(integer(1, 1000)),
    3,
    'failures in a row after which a server is passed over; `off`: never',
  ),
  coolDown: optional(duration(1), '10s', 'for how long; then one request tries it'),
}
const keepAliveShape = {
  connections: optional(integer(0, 100_000), 4096, 'idle connections kept for each server'),
  idle: optional(duration(1), '4s', 'for how long; choose less than the server’s own limit (Node’s is 5 s)'),
  age: optional(
    orOff(duration(1)),
    '1h',
    'after this time a connection is not kept any more, however much it is used; `off`: no limit',
  ),
}
const ownTimeoutShape = {
  connect: absent(duration(1), undefined, 'in place of `timeouts.connect`, for this upstream'),
  response: absent(duration(1), undefined, 'in place of `timeouts.response`, for this upstream'),
}
export const upstreamShape = {
  servers: required(
    fresh(
      unique(text('an upstream address', upstreamAddress), 'the server', server => server.text),
      { least: 1, most: 1000 },
    ),
    '`http://HOST:PORT` or `unix:/path`, or `tcp://HOST:PORT` (for `forward` only), at least one; taken in turn',
  ),
  health: group(healthShape, 'what makes a server count as down'),
  keepAlive: group(keepAliveShape, 'connections kept open for the next request'),
  connections: optional(
    orOff(integer(1, 1_000_000)),
    'off',
    'to each server, used and idle; with all in use another server is tried, or 503',
  ),
  retry: optional(integer(0, 10), 2, 'other servers that are tried where nothing was sent yet'),
  timeouts: group(ownTimeoutShape, 'timeouts of this upstream'),
}
export type Upstream = Fields<typeof upstreamShape> & { name: string }

/** `[["app", …]]` to `[{ name: "app", … }]`. */
export const upstreams = refine(named(name, refine(map(upstreamShape), ofOneKind)), (pairs): Upstream[] =>
  pairs.map(([name, upstream]) => ({ name, ...upstream })),
)

function ofOneKind<T extends Fields<typeof upstreamShape>>(given: T, place: Place): T | undefined {
  if (takesRequests(given.servers) || given.servers.every(({ text }) => !text.startsWith('http:')))
    return given
  return place.at('servers').wrong('http:// and tcp:// do not go together; make two upstreams of them')
}
