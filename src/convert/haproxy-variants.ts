import { type Action, Draft, type ListenerDraft, type Section } from './draft.js'
import { type Changes, changeOf } from './haproxy-backend.js'
import { ALWAYS, both, type Condition, type Parsed } from './haproxy-conditions.js'
import { pathsOf } from './haproxy-paths.js'
import type { Statement } from './haproxy-syntax.js'
import { bothChanges } from './header-changes.js'

/** The changes of the requests of one kind. */
interface Variant {
  readonly parsed: Parsed
  /** For listeners without TLS. */
  readonly plain: Changes
  readonly secure: Changes
}

/** The most alternatives of all conditions together: a change with a condition multiplies them by its own. */
const MOST_ALTERNATIVES = 32

/** The changes of headers and paths by the rules of a section, for the kinds of requests that their conditions tell apart. */
export class Variants {
  /** The first that fits a request counts, and the last fits all. */
  #all: readonly Variant[] = [{ parsed: ALWAYS, plain: noChanges(), secure: noChanges() }]

  /** Takes a change of headers or of the path; false if the statement is none. `listeners` are those of the section; null for a backend. */
  take(
    draft: Draft,
    statement: Statement,
    given: Parsed,
    isConditional: boolean,
    listeners: readonly ListenerDraft[] | null,
  ): boolean {
    if (!changeOf(new Draft(), statement, noChanges(), false)) return false
    const paths = pathsOf(statement)
    const parsed = paths === ALWAYS ? given : both(given, paths)
    const conditional = isConditional || parsed !== given
    const [only] = parsed.any
    const isOfListeners = listeners !== null && parsed.any.length === 1 && isOfTls(only!)
    const secure = isOfListeners ? only!.secure! : null
    if (!conditional) this.#change(draft, statement, this.#all)
    else if (secure !== null) {
      if (listeners!.some(({ tls }) => (tls === true) === secure))
        for (const each of this.#all) changeOf(draft, statement, secure ? each.secure : each.plain, false)
      else draft.own(statement, secure ? 'no listener has TLS' : 'all listeners have TLS')
    } else if (isChoice(parsed) && this.#size * (parsed.any.length + 1) <= MOST_ALTERNATIVES) {
      const added = this.#all.map(each => ({
        parsed: each.parsed === ALWAYS ? parsed : both(parsed, each.parsed),
        plain: structuredClone(each.plain),
        secure: structuredClone(each.secure),
      }))
      this.#change(draft, statement, added)
      if (parsed.near !== '') draft.near(statement, parsed.near)
      this.#all = [...added, ...this.#all]
    } else changeOf(draft, statement, noChanges(), true)
    return true
  }

  get #size(): number {
    return this.#all.reduce((sum, each) => sum + each.parsed.any.length, 0)
  }

  #change(draft: Draft, statement: Statement, variants: readonly Variant[]): void {
    for (const { plain, secure } of variants)
      for (const each of [plain, secure]) changeOf(draft, statement, each, false)
  }

  /** An action with the changes of each kind of requests. */
  of(action: Action, kind: 'plain' | 'secure', limit: Action): { parsed: Parsed; action: Action }[] {
    // An answer of the proxy itself has no changes.
    const variants = action.respond === undefined ? this.#all : this.#all.slice(-1)
    return variants.map(each => ({
      parsed: each.parsed,
      action: withChanges(action, each[kind], limit),
    }))
  }
}

export const noChanges = (): Changes => ({ request: {}, response: {} })

/** Whether a condition is about TLS only. */
const isOfTls = ({ secure, when, ...others }: Condition) =>
  secure !== undefined && when.length === 0 && Object.keys(others).length === 0

/** Whether a condition can be said. */
const isChoice = ({ any }: Parsed) =>
  any.every(({ unknown, except }) => unknown === undefined && except === undefined)

/** Adds changes of a frontend to the action of a route. */
export function withChanges(action: Action, changes: Changes, limit: Action): Action {
  const merged = (name: 'request' | 'response') => {
    const own = (action[name] ?? {}) as Section
    // An answer passes the rules of the backend first.
    const all = name === 'request' ? bothChanges(changes[name], own) : bothChanges(own, changes[name])
    for (const [key, value] of Object.entries(all)) if (value === undefined) delete all[key]
    return Object.keys(all).length > 0 ? { [name]: all } : {}
  }
  if (action.respond !== undefined) return { ...action, ...limit }
  const { request: _, response: __, ...rest } = action
  return { ...rest, ...limit, ...merged('request'), ...merged('response') }
}
