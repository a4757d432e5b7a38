import { compare, type Difference, someCuts } from './compare.js'
import { allowedAs } from './differences.js'
import { generate } from './generator.js'
import type { Implementation } from './our-parser.js'
import { Random } from './random.js'

export interface FuzzResult {
  inputs: number
  /** How many of them Node's parser took. */
  accepted: number
  /** By the name of the allowed difference, how often it was met. */
  allowed: Map<string, number>
  /** The first difference that is not on the list. */
  found: Difference | null
}

/** Compares our reading with Node's for `inputs` streams made from `seed`; stops at the first unlisted difference. */
export function fuzz(http1: Implementation, seed: number, inputs: number): FuzzResult {
  const random = new Random(seed)
  const result: FuzzResult = { inputs: 0, accepted: 0, allowed: new Map(), found: null }
  while (result.inputs < inputs && result.found === null) {
    const input = generate(random)
    const { accepted, difference } = compare(http1, input, someCuts(random, input.text.length))
    result.inputs++
    if (accepted) result.accepted++
    if (difference === null) continue
    const allowed = allowedAs(difference, http1)
    if (allowed === undefined) result.found = difference
    else result.allowed.set(allowed.name, (result.allowed.get(allowed.name) ?? 0) + 1)
  }
  return result
}
