/** Computes changes of routes at run time: either all changes of a call, or none. In that case the error lists the problems. */

import { DocumentPlace, formatPath, Problems, shortJson } from '../../checks/place.js'
import type { ValueCheck } from '../../checks/values.js'
import { FdbError } from '../../index.js'
import { getIfReadable, type Stamp } from '../entries/difference.js'
import { additionOf, existsText, whyNotRemoved } from '../entries/overlay.js'
import { routeKey, routeName } from './path-tree.js'
import { routeCheck, routeNameCheck } from './rule.js'
import { hasTarget, type RouteChange, type RouteState, routeMessage } from './section.js'

const MAX_PROBLEMS = 20
const STEP = 16

export interface AddOptions extends Stamp {
  upstreams: ReadonlySet<string>
  /** The listeners that take requests. */
  listeners: ReadonlySet<string>
  /** Replaces existing runtime routes that have a different target. Without this option, such a route is an error. */
  replace?: boolean
}

export interface RouteAddition {
  changes: RouteChange[]
  added: number
  replaced: number
  /** The number of routes that already exist with the same target, and therefore are not among `changes`. */
  unchanged: number
  /** `HOST/PATH` of the file's routes that the added routes override. */
  shadows: string[]
}

/**
 * Adds routes.
 *
 * @param given untrusted input: a list of routes as in the configuration file
 * @throws ERR_FDB_ROUTES with a line for each problem, `routes[INDEX].KEY: what is wrong`, at most 20
 */
export function* addRoutes(
  state: RouteState,
  given: unknown,
  options: AddOptions,
): Generator<void, RouteAddition> {
  const { upstreams, listeners, replace = false, created, generation } = options
  const result: RouteAddition = { changes: [], added: 0, replaced: 0, unchanged: 0, shadows: [] }
  yield* eachOf(given, routeCheck(upstreams, listeners), ({ host, path, target }, place) => {
    const name = routeName({ host, path })
    const outcome = additionOf(state, name, stored => hasTarget(stored, target), replace)
    if (outcome === null) {
      place.wrong(existsText(name, 'target'))
      return
    }
    result[outcome]++
    if (outcome === 'unchanged') return
    const key = routeKey({ origin: 'runtime', host, path })
    const before = getIfReadable(state, key)
    result.changes.push({ key, value: routeMessage(target, { created, generation }, before) })
    if (state.has(routeKey({ origin: 'file', host, path }))) result.shadows.push(name)
  })
  return result
}

export interface RouteRemoval {
  changes: RouteChange[]
  removed: number
  /** `HOST/PATH` of the file's routes that apply again. */
  uncovers: string[]
}

/**
 * Removes routes that were made at run time. A route that does not exist is an error.
 *
 * @param given untrusted input: a list of `{ host, path }`
 * @throws ERR_FDB_ROUTES as {@link addRoutes}
 */
export function* removeRoutes(state: RouteState, given: unknown): Generator<void, RouteRemoval> {
  const result: RouteRemoval = { changes: [], removed: 0, uncovers: [] }
  yield* eachOf(given, routeNameCheck(), ({ host, path }, place) => {
    const name = routeName({ host, path })
    const why = whyNotRemoved(state, name, `${name} does not exist: see \`fd-broker routes list\``)
    if (why !== null) {
      place.wrong(why)
      return
    }
    result.changes.push({ key: routeKey({ origin: 'runtime', host, path }), delete: true })
    result.removed++
    if (state.has(routeKey({ origin: 'file', host, path }))) result.uncovers.push(name)
  })
  return result
}

function* eachOf<T>(
  given: unknown,
  check: ValueCheck<T>,
  then: (route: T, place: DocumentPlace) => void,
): Generator<void> {
  const problems = new Problems(MAX_PROBLEMS)
  const root = new DocumentPlace(problems).at('routes')
  if (!Array.isArray(given)) root.wrong(`${shortJson(given)} is not a list of routes`)
  else if (given.length === 0) root.wrong('the list is empty')
  else {
    for (const [index, each] of given.entries()) {
      if (index % STEP === 0) yield
      const place = root.at(index)
      const checked = check(each, place)
      if (checked !== undefined) then(checked, place)
    }
  }
  if (problems.count === 0) return
  const named = problems.list.map(({ path, message }) => ({ key: formatPath(path), message }))
  const lines = named.map(({ key, message }) => `${key}: ${message}`)
  if (problems.count > named.length) lines.push(`and ${problems.count - named.length} more`)
  throw new FdbError('ERR_FDB_ROUTES', `no route was changed:\n${lines.join('\n')}`, {
    details: { problems: named, count: problems.count },
  })
}
