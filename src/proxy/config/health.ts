import { isMap, type Place, shortJson } from '../../checks/place.js'
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
import { CHECK_PARSERS } from '../../probing/health-check.js'
import { hostField } from '../server-checks/shape.js'
import { type ListenerConfig, requestListeners } from './listeners.js'

const KINDS = ['http', 'tcp', 'command'] as const
type ProbeKind = (typeof KINDS)[number]

const EXAMPLES: Readonly<Record<ProbeKind, string>> = {
  http: '/health, or http://127.0.0.1:9000/health',
  tcp: '127.0.0.1:5432',
  command: './healthy.sh',
}

function healthAddress(kind: ProbeKind): ValueCheck<string, string> {
  return text(kind === 'command' ? 'a command' : 'an address', given =>
    CHECK_PARSERS[kind](given) === null
      ? new InvalidValue(`${shortJson(given)} is not a valid ${kind} check; write ${EXAMPLES[kind]}`)
      : given,
  )
}

export const healthShape = {
  http: absent(
    healthAddress('http'),
    null,
    'a GET that must return 2xx or 3xx: `/PATH`, sent to the new process only; or `http://HOST:PORT/PATH`',
  ),
  tcp: absent(healthAddress('tcp'), null, '`HOST:PORT` that must accept a connection'),
  command: absent(
    healthAddress('command'),
    null,
    'a command for `sh` that must end with 0; it gets `FD_BROKER_PID`, and in `FD_BROKER_SOCKET` the path of the new process’s own socket',
  ),
  host: absent(text('a host', hostField), null, '`Host` of the request for `/PATH`; default: `localhost`'),
  listener: absent(
    text('the name of a listener', name => name),
    null,
    'listener whose settings the check uses; default: the first HTTP listener',
  ),
  interval: optional(duration(1), '250ms', 'time between two checks'),
  timeout: optional(duration(1), '2s', 'limit of one check'),
  passes: optional(integer(1, 1000), 2, 'successful checks in a row before the commit'),
  within: optional(duration(1), '10s', 'limit for these successful checks; then the upgrade fails'),
}

const healthFields = map(healthShape)

/** The health check of a new version, before the commit and in probation. Exactly one of `http`, `tcp` and `command` is set. */
export interface HealthConfig extends Checked<typeof healthFields> {}

/** Exactly one of `http`, `tcp` and `command` must be set. */
export interface HealthDocument extends Written<typeof healthFields> {}

function isOwnPath({ http }: { http: string | null }): boolean {
  return http?.startsWith('/') ?? false
}

function checkHealth(given: HealthConfig, place: Place): HealthConfig | undefined {
  const kinds = KINDS.filter(kind => given[kind] !== null)
  if (kinds.length !== 1)
    return place.wrong(
      `${kinds.length === 0 ? 'the check is missing' : 'there is more than one check'}; give one of ${KINDS.join(', ')}`,
    )
  const own = isOwnPath(given)
  if (given.host !== null && !own)
    return place.at('host').wrong('it is valid only with "http: /PATH"; leave it out')
  if (given.listener !== null && !own && given.command === null)
    return place.at('listener').wrong('it is valid only with "http: /PATH" or "command"; leave it out')
  if (given.within < given.timeout)
    return place
      .at('within')
      .wrong(`${given.within} ms are less than the time limit of one check (timeout: ${given.timeout} ms)`)
  return given
}

const healthMap = refine(healthFields, checkHealth)

/** `health: http:/health` is short for `health: { http: /health }`, as with `fd-broker run --ready`. */
export const health: ValueCheck<HealthConfig | null, string | Off | HealthDocument> = (value, place) => {
  if (value === 'off' || value === false) return null
  if (isMap(value) || typeof value !== 'string') return healthMap(value, place)
  const at = value.indexOf(':')
  const kind = KINDS.find(each => each === value.slice(0, at))
  const rest = value.slice(at + 1)
  if (kind === undefined)
    return place.wrong(
      `${shortJson(value)} is not a health check; write http:/health, tcp:HOST:PORT, command:TEXT or a map`,
    )
  return healthAddress(kind)(rest, place) === undefined ? undefined : healthMap({ [kind]: rest }, place)
}

/** Requires that the health check can fail before another time limit ends the upgrade: otherwise the operator would not learn the reason. */
export function healthInTime(
  given: { health: HealthConfig | null; probation: number; ready: number; timeout: number },
  place: Place,
): boolean {
  const { health, probation, ready, timeout } = given
  if (health === null) return true
  const at = place.at('health')
  for (const [name, limit] of Object.entries({ ready, timeout })) {
    if (health.within < limit) continue
    at.at('within').wrong(
      `${health.within} ms are not less than upgrade.${name} (${limit} ms), which would end the upgrade before the check has failed`,
    )
    return false
  }
  const known = health.interval + health.timeout
  if (probation === 0 || known < probation) return true
  at.at('timeout').wrong(
    `interval and timeout (${known} ms) are not less than upgrade.probation (${probation} ms): probation would end before the check of a hanging version fails`,
  )
  return false
}

export function healthListener(
  {
    listeners,
    upgrade: { health },
  }: { listeners: ListenerConfig[]; upgrade: { health: HealthConfig | null } },
  place: Place,
): boolean {
  if (health === null) return true
  const { listener } = health
  const needed = isOwnPath(health)
  const fits = [...requestListeners(listeners)]
  if (listener === null ? fits.length > 0 || !needed : fits.includes(listener)) return true
  const at = place.at('upgrade').at('health')
  if (listener === null) at.wrong('no listener takes HTTP requests; use "tcp: HOST:PORT" or a command')
  else
    at.at('listener').wrong(
      `${shortJson(listener)} is not a listener for HTTP requests; those are: ${fits.join(', ') || 'none'}`,
    )
  return false
}
