/** Every key of `accessLine` and `tracing`: what a proxy notes about requests. */
import { shortJson } from '../../checks/place.js'
import { map, optional } from '../../checks/shape.js'
import { didYouMean } from '../../checks/spelling.js'
import { boolean, type Checked, InvalidValue, list, oneOf, orOff, refine, text } from '../../checks/values.js'
import type { TrailOptions } from '../../relay/index.js'
import { headerName } from '../routes/header-name.js'

const USUAL =
  'listener client user protocol method host target status reason upstream attempts bytes received ms version'
/** Fields that need {@link TrailOptions}. */
const NOTED = ['queueMs', 'connectMs', 'firstByteMs', 'auth', 'authMs', 'requestId', 'traceId']
const FIELDS = [...USUAL.split(' '), ...NOTED]
const HEADER = 'header:'
/** The headers that a line of the Combined Log Format has. */
const COMBINED = ['referer', 'user-agent']

function fieldName(given: string): string | InvalidValue {
  if (FIELDS.includes(given)) return given
  const isHeader =
    given.startsWith(HEADER) && !(headerName(given.slice(HEADER.length)) instanceof InvalidValue)
  if (isHeader) return given
  return new InvalidValue(
    `${shortJson(given)} is no field of the access log${didYouMean(given, FIELDS)}; write ${FIELDS.join(', ')} or header:NAME`,
  )
}

export const accessLineShape = {
  format: optional(
    oneOf('json', 'common', 'combined'),
    'json',
    'format of a line: `json`, or the Common or Combined Log Format of other servers',
  ),
  fields: optional(
    list(text('a field', fieldName), { most: 50 }),
    [],
    'fields of a line in JSON, in this order, instead of [the usual ones](proxy.md#access-log)',
  ),
}

export const accessLine = refine(map(accessLineShape), (given, place) => {
  const { format, fields } = given
  const twice = fields.find((name, i) => fields.indexOf(name) !== i)
  if (twice !== undefined) return place.at('fields').wrong(`${shortJson(twice)} is given twice`)
  if (format === 'json' || fields.length === 0) return given
  return place.at('fields').wrong(`a line in the format "${format}" has the same fields always; leave it out`)
})
export type AccessLineConfig = Checked<typeof accessLine>

/** Fields with a meaning of their own, most of which the relay writes. */
const OTHER_MEANING =
  /^(?:(?:x-)?forwarded|x-forwarded-.*|x-client-cert-.*|via|date|max-forwards|(?:proxy-)?authorization|cookie|traceparent|tracestate)$/i
/** The relay removes the name in every spelling with `-` and `_`: their number doubles with each. */
const MOST_HYPHENS = 8

/** Checks the name of the header that has the number of a request. */
export function requestIdName(given: string): string | InvalidValue {
  if (OTHER_MEANING.test(given.replaceAll('_', '-')))
    return new InvalidValue(`${shortJson(given)} has another meaning; choose another header`)
  return given.split(/[-_]/).length > MOST_HYPHENS + 1
    ? new InvalidValue(`${shortJson(given)} has more than ${MOST_HYPHENS} hyphens; choose another header`)
    : headerName(given)
}

export const tracingShape = {
  requestId: optional(
    orOff(text('a header name', requestIdName)),
    'off',
    'name of the header that tells servers [the number of the request](proxy.md#access-log), such as `X-Request-Id`',
  ),
  traceparent: optional(
    boolean,
    false,
    'whether servers get the header `traceparent` (W3C Trace Context) for all requests: the client’s, or a new one',
  ),
}

/** Returns what the relay must note; undefined if nothing. */
export function trailOptions(config: {
  readonly accessLog: boolean
  readonly accessLine: AccessLineConfig
  readonly tracing: { readonly requestId: string | null; readonly traceparent: boolean }
}): TrailOptions | undefined {
  const { accessLog, accessLine, tracing } = config
  const { format, fields } = accessLine
  const logged = accessLog ? fields : []
  const named = logged.flatMap(name =>
    name.startsWith(HEADER) ? [name.slice(HEADER.length).toLowerCase()] : [],
  )
  const headers = accessLog && format === 'combined' ? COMBINED : [...new Set(named)]
  const isAsked = tracing.requestId !== null || tracing.traceparent || headers.length > 0
  return isAsked || logged.some(name => NOTED.includes(name)) ? { ...tracing, headers } : undefined
}
