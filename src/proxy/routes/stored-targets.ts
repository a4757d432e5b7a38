import { fdbroker } from '../../proto/proxy.js'
import { type RouteState, targetFields } from './section.js'
import { type RouteTarget, targetKey } from './target.js'

/** Targets whose encoding is kept: most files have many routes of few, some as many as routes. None that is longer. */
const KEPT = 1_024
const LONGEST_KEPT = 1_024
/** The tags of `created` and `generation`, which are numbers. */
const CREATED = 14 << 3
const GENERATION = 15 << 3
/** Bytes that a number of either has: of more, it is for who decodes it to say what it is. */
const NUMBER = 7

/** Says of most routes that are stored with a target that they are, from their bytes: none has to be decoded for it. */
export class StoredTargets {
  readonly #state: RouteState
  readonly #kept = new Map<string, Uint8Array>()

  constructor(state: RouteState) {
    this.#state = state
  }

  /** True: the route is there, with this target. False: it may be, or not. */
  has(key: string, target: RouteTarget): boolean {
    if (this.#state.isStored_ === undefined) return false
    const wanted = this.#encoded(target)
    return this.#state.isStored_(
      key,
      (bytes, start, end) =>
        beginsWith(bytes, start, end, wanted) && areStamps(bytes, start + wanted.length, end),
    )
  }

  #encoded(target: RouteTarget): Uint8Array {
    const key = targetKey(target)
    const kept = this.#kept.get(key)
    if (kept !== undefined) return kept
    const encoded = fdbroker.proxy.Route.encode(targetFields(target)).finish()
    if (encoded.length > LONGEST_KEPT) return encoded
    if (this.#kept.size >= KEPT) this.#kept.clear()
    this.#kept.set(key, encoded)
    return encoded
  }
}

function beginsWith(bytes: Uint8Array, start: number, end: number, wanted: Uint8Array): boolean {
  const { length } = wanted
  if (end - start < length) return false
  for (let i = 0; i < length; i++) if (bytes[start + i] !== wanted[i]) return false
  return true
}

/** Fields behind a target which leave it as it is: nothing but who wrote it, and when. */
function areStamps(bytes: Uint8Array, start: number, end: number): boolean {
  for (let at = start; at < end; at++) {
    const tag = bytes[at++]
    if (tag !== CREATED && tag !== GENERATION) return false
    const last = Math.min(end, at + NUMBER) - 1
    while (at < last && bytes[at]! >= 0x80) at++
    if (at >= end || bytes[at]! >= 0x80) return false
  }
  return true
}
