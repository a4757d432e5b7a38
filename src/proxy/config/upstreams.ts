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
    'failures in a row after which a server is skipped; `off`: never',
  ),
  coolDown: optional(duration(1), '10s', 'time that it is skipped; then one request tries it'),
}
const keepAliveShape = {
  connections: optional(integer(0, 100_000), 4096, 'idle connections kept for each server'),
  idle: optional(duration(1), '4s', 'for how long; less than the server’s own limit (Node’s is 5 s)'),
  age: optional(
    orOff(duration(1)),
    '1h',
    'age after which a connection is not kept any more; `off`: no limit',
  ),
}
const ownTimeoutShape = {
  connect: absent(duration(1), undefined, 'overrides `timeouts.connect`'),
  response: absent(duration(1), undefined, 'overrides `timeouts.response`'),
}
export const upstreamShape = {
  servers: required(
    fresh(
      unique(text('an upstream address', upstreamAddress), 'the server', server => server.text),
      { least: 1, most: 1000 },
    ),
    '`http://HOST:PORT`, `unix:/path`, or `tcp://HOST:PORT` (for `forward` only), at least one; used in turn',
  ),
  health: group(healthShape, 'when a server counts as down'),
  keepAlive: group(keepAliveShape, 'connections kept open for the next request'),
  connections: optional(
    orOff(integer(1, 1_000_000)),
    'off',
    'connections to each server; if all are in use: another server, or 503',
  ),
  retry: optional(integer(0, 10), 2, 'other servers to try if nothing was sent yet'),
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
