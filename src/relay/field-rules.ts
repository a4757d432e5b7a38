import { type FieldEditOptions, FieldEdits } from '../http1/index.js'
import { requestEdits } from './forwarded.js'

/** What a route does to the field lines of its requests and answers. Treat it as frozen: it is prepared once. */
export interface FieldRules {
  request?: FieldEditOptions
  response?: FieldEditOptions
}

const NONE: FieldRules = {}

/** The edits of all routes' heads, together with those of one relay, each prepared when it is first needed. */
export class FieldBook {
  readonly #trusted: boolean
  readonly #response: FieldEditOptions
  readonly #requests = new WeakMap<FieldRules, FieldEdits>()
  readonly #responses = new WeakMap<FieldRules, FieldEdits>()

  /** `trusted`: its clients may say who came before them. `response`: for every answer, where its route says nothing else. */
  constructor(trusted: boolean, response: FieldEditOptions = {}) {
    this.#trusted = trusted
    this.#response = response
  }

  request(rules: FieldRules = NONE): FieldEdits {
    let edits = this.#requests.get(rules)
    if (edits === undefined) {
      edits = requestEdits(rules.request, this.#trusted)
      this.#requests.set(rules, edits)
    }
    return edits
  }

  response(rules: FieldRules = NONE): FieldEdits {
    let edits = this.#responses.get(rules)
    if (edits === undefined) {
      const { set = {}, remove = [] } = rules.response ?? {}
      const own = new Set([...Object.keys(set), ...remove].map(name => name.toLowerCase()))
      const ours = Object.entries(this.#response.set ?? {}).filter(([name]) => !own.has(name.toLowerCase()))
      edits = new FieldEdits({ remove, set: { ...Object.fromEntries(ours), ...set } })
      this.#responses.set(rules, edits)
    }
    return edits
  }
}
