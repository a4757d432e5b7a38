import { type FieldEditOptions, FieldEdits } from '../http1/index.js'
import { requestEdits } from './forwarded.js'

/** What a route does to the field lines of its requests and answers. Treat it as frozen: it is prepared once. */
export interface FieldRules {
  request?: FieldEditOptions
  response?: FieldEditOptions
}

const NONE: FieldRules = {}

/** Edits by the rules that they are for, each prepared when it is first needed. Mostly it is asked for the same ones again. */
class Prepared {
  readonly #prepare: (rules: FieldRules) => FieldEdits
  readonly #all = new WeakMap<FieldRules, FieldEdits>()
  #lastRules: FieldRules | null = null
  #last!: FieldEdits

  constructor(prepare: (rules: FieldRules) => FieldEdits) {
    this.#prepare = prepare
  }

  of(rules: FieldRules): FieldEdits {
    if (rules === this.#lastRules) return this.#last
    let edits = this.#all.get(rules)
    if (edits === undefined) {
      edits = this.#prepare(rules)
      this.#all.set(rules, edits)
    }
    this.#lastRules = rules
    this.#last = edits
    return edits
  }
}

/** The edits of all routes' heads, together with those of one relay. */
export class FieldBook {
  readonly #requests: Prepared
  readonly #responses: Prepared

  /** `trusted`: its clients may say who came before them. `response`: for every answer, where its route says nothing else. */
  constructor(trusted: boolean, response: FieldEditOptions = {}) {
    this.#requests = new Prepared(rules => requestEdits(rules.request, trusted))
    this.#responses = new Prepared(rules => responseEdits(rules.response, response))
  }

  request(rules: FieldRules = NONE): FieldEdits {
    return this.#requests.of(rules)
  }

  response(rules: FieldRules = NONE): FieldEdits {
    return this.#responses.of(rules)
  }
}

function responseEdits(
  { set = {}, remove = [] }: FieldEditOptions = {},
  always: FieldEditOptions,
): FieldEdits {
  const own = new Set([...Object.keys(set), ...remove].map(name => name.toLowerCase()))
  const ours = Object.entries(always.set ?? {}).filter(([name]) => !own.has(name.toLowerCase()))
  return new FieldEdits({ remove, set: { ...Object.fromEntries(ours), ...set } })
}
