/** The entries of a store that a proxy can use. */
import { isDeepStrictEqual } from 'node:util'
import { isMap } from '../../checks/place.js'
import { map } from '../../checks/shape.js'
import { fresh } from '../../checks/values.js'
import { checkMade } from '../../config/document.js'
import { fdbroker } from '../../proto/proxy.js'
import type { SourceEntry } from '../../sources/source.js'
import { limitShape, type ProxyConfig } from '../config/schema.js'
import { ROUTE_PREFIX, type SourceMessage, sourceSection } from '../entries/source-section.js'
import { splitConditions, writtenConditions } from '../routes/conditions.js'
import { splitScope } from '../routes/host.js'
import { routeName } from '../routes/path-tree.js'
import { type RouteDocument, routeCheck } from '../routes/rule.js'
import { targetFields } from '../routes/section.js'
import { readAddition } from '../tls/live-certificates.js'
import type { CertificateConfig } from '../tls/material.js'
import { type UpstreamFields, upstreams } from '../upstreams/shape.js'

/** A part of the configuration: each entry but a route has one. */
export type SharedPart =
  | { readonly upstream: UpstreamFields }
  | { readonly certificate: CertificateConfig }
  | { readonly limits: Partial<ProxyConfig['limits']> }

/** Stands for the upstreams and listeners of all machines: the order in which routes and upstreams arrive does not matter. */
class AnyName extends Set<string> {
  override has(): boolean {
    return true
  }
}
const ANY = new AnyName()
/** The parts of a route that are in its key. */
const IN_KEY = ['host', 'path', 'listener', 'when']

/** Returns the entries below `routes/` of a list of routes as in a file. Throws ERR_FDB_CONFIG. */
export function routeEntries(routes: readonly unknown[]): SourceEntry[] {
  const rules = checkMade(
    routes,
    fresh(() => routeCheck(ANY, ANY), {}),
  )
  return rules.map((rule, at) => {
    const { host: _, path: __, listener: ___, when: ____, ...value } = routes[at] as RouteDocument
    return { key: routeName(rule), value: Buffer.from(JSON.stringify(value)) }
  })
}

/** Reports whether two values of a route mean the same. */
export function sameRoute(key: string, ...values: [Uint8Array, Uint8Array]): boolean {
  try {
    const [one, other] = values.map(value => sourceEntry(`${ROUTE_PREFIX}${key}`, value))
    return isDeepStrictEqual(one, other)
  } catch {
    return false
  }
}

/** Converts the value of a key. Throws the reason why the entry cannot be used. */
export function sourceEntry(key: string, bytes: Uint8Array): SourceMessage {
  const json = Buffer.from(bytes).toString()
  const value: unknown = JSON.parse(json)
  let fields: fdbroker.proxy.SourceEntry.$Properties
  if (key.startsWith(ROUTE_PREFIX)) fields = { route: routeOf(key.slice(ROUTE_PREFIX.length), value) }
  else {
    sharedPart(key, value)
    fields = { json }
  }
  const { codec } = sourceSection
  // As the state has it, so that equal entries are equal.
  return codec.decode(codec.encode(fdbroker.proxy.SourceEntry.create(fields)))
}

function routeOf(name: string, value: unknown): fdbroker.proxy.Route.$Properties {
  if (!isMap(value)) throw new Error('the value is no map')
  const slash = name.indexOf('/')
  if (slash < 1) throw new Error('the key has no host and path: write routes/HOST/PATH')
  const given = IN_KEY.find(part => value[part] !== undefined)
  if (given !== undefined) throw new Error(`"${given}" is in the key; leave it out`)
  const { listener, host } = splitScope(name.slice(0, slash))
  const { path, conditions } = splitConditions(name.slice(slash))
  const when = conditions === '' ? undefined : writtenConditions(conditions)
  if (when === null) throw new Error('this version does not know the conditions in the key')
  const place = { host, path, ...(listener !== null && { listener }), ...(when && { when }) }
  const rule = checkMade({ ...value, ...place }, routeCheck(ANY, ANY))
  if (routeName(rule) !== name) throw new Error(`the key is not canonical: write routes/${routeName(rule)}`)
  return targetFields(rule.target)
}

/** Throws the reason why the entry cannot be used. */
export function sharedPart(key: string, value: unknown): SharedPart {
  const [, kind, name = ''] = /^([^/]*)\/([^/]+)$/.exec(key) ?? []
  if (kind === 'upstreams') {
    const [upstream] = checkMade({ [name]: value }, upstreams)
    return { upstream: upstream as UpstreamFields }
  }
  if (kind === 'certificates') {
    const { material } = readAddition(value)
    return { certificate: { ...material, files: { cert: key, key } } }
  }
  if (kind === 'limits') {
    const limits = checkMade({ [name]: value }, map(limitShape))
    return { limits: { [name]: limits[name as keyof typeof limits] } }
  }
  throw new Error('a key is routes/HOST/PATH, upstreams/NAME, certificates/NAME or limits/NAME')
}
