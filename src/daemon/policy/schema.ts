/** Every key of a daemon's configuration, with its check, its default and its line in the documentation. */

import { defaultText } from '../../base/default-times.js'
import { hooksShape } from '../../checks/hooks.js'
import { type Place, shortJson } from '../../checks/place.js'
import { absent, type Field, map, optional, type Shape } from '../../checks/shape.js'
import {
  absolutePath,
  boolean,
  duration,
  InvalidValue,
  integer,
  list,
  named,
  oneOf,
  refine,
  size,
  text,
  type ValueCheck,
} from '../../checks/values.js'
import { parseDocument, readDocument, requireFile } from '../../config/document.js'
import { MAX_ENTRIES } from '../../holder/registry.js'
import type { Policy, ProcessMatch, Unserved } from './policy.js'
import { ANYONE, LIMITS, OWNER, servicePolicy } from './policy.js'

/** Reads and checks a daemon's configuration file (YAML or JSON). Throws ERR_FDB_CONFIG, which names file, line, column and key. */
export function readPolicy(file: string): Policy {
  return readDocument(file, checkPolicy)
}

/** As {@link readPolicy}, in a daemon that serves: reads only a regular file. */
export function readPolicyAgain(file: string): Policy {
  requireFile(file)
  return readPolicy(file)
}

/** Checks a daemon's configuration in `text`, as {@link readPolicy} does; `file` is for messages. */
export function parsePolicy(text: string, file: string): Policy {
  return parseDocument(text, file, checkPolicy)
}

/** The highest valid id. To the kernel 2^32 - 1 means "no change". */
const MOST_ID = 2 ** 32 - 2
const MOST = 100

const whoShape = {
  uid: absent(integer(0, MOST_ID), null, 'its effective user, as a number'),
  gid: absent(integer(0, MOST_ID), null, 'its effective group, as a number'),
  executable: absent(absolutePath, null, 'the program that it runs'),
}

const described: ValueCheck<ProcessMatch> = refine(map(whoShape), (given, place) =>
  Object.values(given).every(value => value === null)
    ? place.wrong('the rule matches every process; give uid, gid or executable, or write "anyone"')
    : { ...ANYONE, ...given },
)

const aPerson: ValueCheck<ProcessMatch> = (value, place) => {
  if (value === 'owner') return OWNER
  if (value === 'anyone') return ANYONE
  return typeof value === 'string'
    ? place.wrong(`${shortJson(value)} is none of "owner", "anyone" and a map of uid, gid and executable`)
    : described(value, place)
}

/** A list of matching processes; an empty list allows no process. */
const whoList: ValueCheck<ProcessMatch[]> = list(aPerson, { most: MOST })

const allowed = (about: string): Field<ProcessMatch[] | null> => absent(whoList, null, about)

const command = text('a command', given =>
  given.trim() === '' ? new InvalidValue('the command is empty; write one for sh') : given,
)

const unservedShape = {
  after: optional(duration(0), '0s', 'acts after this time without a serving member'),
  close: optional(boolean, false, 'end the service, with its listeners and its state'),
  run: absent(
    command,
    null,
    'a command for `sh` that starts a member; repeated, with growing delays, until a member serves',
  ),
}

const unservedMap: ValueCheck<Unserved> = refine(map(unservedShape), ({ after, close, run }, place) => {
  if (close === (run !== null)) return place.wrong('give one of `close: true` and `run`')
  return { afterMs: after, act: run === null ? 'close' : { run } }
})

const unserved: ValueCheck<Unserved | 'hold'> = (value, place) => {
  if (value === 'hold') return 'hold'
  return typeof value === 'string'
    ? place.wrong(`${shortJson(value)} is neither "hold" nor a map of after, close and run`)
    : unservedMap(value, place)
}

const hookShape = hooksShape(duration(1), defaultText('hook'))

const claims = oneOf('any', 'exclusive', 'shared')

const limitsShape = {
  listeners: absent(integer(0, MAX_ENTRIES), null, 'number of listening sockets of members; default 10,000'),
  descriptors: absent(
    integer(0, MAX_ENTRIES),
    null,
    'number of listeners and named descriptors of members, and separately of descriptors that other processes store; default 10,000',
  ),
  members: absent(
    integer(1, 1000),
    null,
    'number of member processes: serving, joining, draining or standing by; default 64',
  ),
  state: absent(
    size(1, Number.MAX_SAFE_INTEGER),
    null,
    'size of the state in memory (`512m`) above which the log warns; default 1g',
  ),
}

const aboutPut = 'permission to store a descriptor'
const aboutClaim = 'permission to duplicate a descriptor or listener'
const aboutRemove = 'permission to remove a descriptor'

const one: ValueCheck<1> = (value, place) =>
  value === 1
    ? 1
    : place.wrong(`${shortJson(value)} is not 1: one member serves, the others are its successors`)

export const serviceShape = {
  join: allowed('permission to be a member: serve, be a successor, reconnect'),
  follow: allowed('permission to read the service’s state; default: as `join`'),
  put: allowed(aboutPut),
  claim: allowed(aboutClaim),
  list: allowed('permission to see the service in `status`, and its descriptors in `fd list`'),
  remove: allowed(aboutRemove),
  operate: allowed(
    'permission to upgrade, stop, reload or roll back the service, to send commands to the serving member, to read the state, and to see the service in `status`',
  ),
  serving: absent(one, null, 'number of members that serve at a time; must be 1'),
  claims: absent(
    claims,
    null,
    '`exclusive`: one process at a time may claim a descriptor; `shared`: several; `any` (default): the process chooses',
  ),
  limits: absent(map(limitsShape), null, 'limits of a service', limitsShape),
  unserved: absent(
    unserved,
    null,
    '`hold` (default): everything waits for the next member; or a map with these keys',
    unservedShape,
  ),
  hooks: absent(
    map(hookShape),
    null,
    '[hooks](operating.md#hooks): commands for `sh`, or URLs that get a POST',
    hookShape,
  ),
}

export const descriptorsShape = {
  put: allowed(aboutPut),
  claim: allowed(aboutClaim),
  list: allowed('permission to see them in `fd list`'),
  remove: allowed(aboutRemove),
  claims: absent(claims, null, 'as for a service'),
  limit: absent(integer(0, MAX_ENTRIES), null, 'highest number; default 10,000'),
}

const daemonShape = {
  operate: allowed('permission to upgrade, stop or reload the daemon itself'),
}

/** Checks a service name by the rules of join(). */
function serviceName(name: string): string | InvalidValue {
  return name.length >= 1 && name.length <= 128
    ? name
    : new InvalidValue(`${shortJson(name)} is not a valid name of a service (1 to 128 characters)`)
}

export const policyShape = {
  daemon: absent(map(daemonShape), null, 'the daemon itself', daemonShape),
  default: absent(
    map(serviceShape),
    null,
    'for services without an entry, and for keys that an entry leaves out',
    serviceShape,
  ),
  services: absent(
    named(serviceName, map(serviceShape)),
    [],
    'services by name; each has the keys of `default`',
  ),
  descriptors: absent(
    map(descriptorsShape),
    null,
    'for descriptors that belong to no service: their names have no slash',
    descriptorsShape,
  ),
} satisfies Shape

export const checkPolicy: ValueCheck<Policy> = (value: unknown, place: Place) => {
  // A file that contains only comments is an empty configuration.
  const given = map(policyShape)(value ?? {}, place)
  if (given === undefined) return undefined
  const { daemon, default: others, services, descriptors } = given
  const base = servicePolicy('default', others ?? {})
  const { limit = null, ...rest } = descriptors ?? {}
  const limits = limit === null ? null : { ...LIMITS, descriptors: limit }
  return {
    services: new Map(services.map(([name, each]) => [name, servicePolicy(`services.${name}`, each, base)])),
    others: base,
    descriptors: servicePolicy('descriptors', { ...rest, limits }),
    operate: { key: 'daemon.operate', who: daemon?.operate ?? [OWNER] },
  }
}
