import { firstWithoutEnd, Pairs } from './ends.js'
import { MUST, RESUME, type World } from './world.js'

export interface Violation {
  readonly what: string
  /** The shortest way there: what happened, in order. */
  readonly trace: readonly string[]
}

export interface Report {
  readonly states: number
  readonly transitions: number
  readonly depth: number
  /** Everything that can be reached within the bounds was visited. */
  readonly exhausted: boolean
  readonly seconds: number
  readonly violations: readonly Violation[]
}

export interface Limits {
  readonly states: number
  /** Stop when this many kinds of violation were found. */
  readonly violations: number
  /** Go on until one of this kind was found. */
  readonly wanted?: RegExp
  /** Check too that from everywhere a state can be reached where nothing more has to happen (costs memory). */
  readonly ends?: boolean
}

const PAGE = 1 << 14

/**
 * Breadth first, so that traces are the shortest. States are compared whole, not by their hashes: nothing is
 * taken for visited that was not.
 */
export function explore(world: World, limits: Limits): Report {
  const started = performance.now()
  const width = world.words.length
  const pages: Uint32Array[] = []
  let table = new Int32Array(1 << 16).fill(-1)
  let parents = new Int32Array(1 << 16)
  let count = 0
  let transitions = 0
  let depth = 0
  const violations = new Map<string, Violation>()

  const hash = (words: Uint32Array, at: number): number => {
    let h = 0x9e3779b9
    for (let i = 0; i < width; i++) {
      h = Math.imul(h ^ words[at + i]!, 0x85ebca6b)
      h ^= h >>> 15
    }
    h = Math.imul(h, 0xc2b2ae35)
    return h ^ (h >>> 16)
  }
  const equal = (index: number, words: Uint32Array): boolean => {
    const page = pages[index >> 14]!
    const at = (index & (PAGE - 1)) * width
    for (let i = 0; i < width; i++) if (page[at + i] !== words[i]) return false
    return true
  }
  const grow = (): void => {
    const larger = new Int32Array(table.length * 4).fill(-1)
    const mask = larger.length - 1
    for (let index = 0; index < count; index++) {
      let slot = hash(pages[index >> 14]!, (index & (PAGE - 1)) * width) & mask
      while (larger[slot]! >= 0) slot = (slot + 1) & mask
      larger[slot] = index
    }
    table = larger
  }
  const add = (words: Uint32Array, parent: number): number => {
    if (count * 2 > table.length) grow()
    const mask = table.length - 1
    let slot = hash(words, 0) & mask
    for (;;) {
      const index = table[slot]!
      if (index < 0) break
      if (equal(index, words)) return index
      slot = (slot + 1) & mask
    }
    if (count === parents.length) {
      const longer = new Int32Array(parents.length * 2)
      longer.set(parents)
      parents = longer
    }
    if (count >> 14 === pages.length) pages.push(new Uint32Array(PAGE * width))
    pages[count >> 14]!.set(words, (count & (PAGE - 1)) * width)
    parents[count] = parent
    table[slot] = count
    return count++
  }
  const row = (index: number): Uint32Array => {
    const at = (index & (PAGE - 1)) * width
    return pages[index >> 14]!.subarray(at, at + width)
  }
  const traceTo = (index: number): string[] => {
    const trace: string[] = []
    for (let child = index; child > 0; child = parents[child]!) {
      let label = '?'
      world.labelled = true
      world.successors(row(parents[child]!), (_kind, name) => {
        if (world.violation === null && equal(child, world.words)) label = name
      })
      world.labelled = false
      trace.push(label)
    }
    return trace.reverse()
  }
  const record = (what: string, index: number, last?: string): void => {
    const kind = what.replace(/:.*/, '').replace(/\d/g, '')
    if (violations.has(kind) || enough()) return
    const trace = traceTo(index)
    if (last !== undefined) trace.push(last)
    violations.set(kind, { what, trace })
  }

  const enough = (): boolean => {
    const { wanted } = limits
    if (wanted === undefined) return violations.size >= limits.violations
    return [...violations.values()].some(({ what }) => wanted.test(what))
  }

  world.begin()
  add(world.words, -1)
  let levelEnd = 1
  let index = 0
  let musts = 0
  let resumes = 0
  const faulty: string[] = []
  const edges = new Pairs()
  const ends: number[] = []
  const onSuccessor = (kind: number): void => {
    transitions++
    if (kind === MUST) musts++
    else if (kind === RESUME) resumes++
    if (world.violation !== null) {
      faulty.push(world.violation)
      return
    }
    const next = add(world.words, index)
    if (kind === MUST && limits.ends) edges.push(index, next)
  }
  for (; index < count; index++) {
    if (index === levelEnd) {
      depth++
      levelEnd = count
    }
    musts = resumes = 0
    world.successors(row(index), onSuccessor)
    if (faulty.length > 0) {
      for (const what of new Set(faulty)) {
        let last = '?'
        world.labelled = true
        world.successors(row(index), (_kind, name) => {
          if (world.violation === what && last === '?') last = name
        })
        world.labelled = false
        record(what, index, last)
      }
      faulty.length = 0
    }
    if (limits.ends && (musts === 0 || world.cramped)) ends.push(index)
    if (musts === 0) {
      world.look(row(index))
      const what = world.atRest(resumes > 0)
      if (what !== null) record(what, index)
    }
    if (enough() || count >= limits.states) break
  }
  const exhausted = index >= count
  if (limits.ends && exhausted) {
    const lost = firstWithoutEnd(count, edges, ends)
    if (lost >= 0) record('never comes to rest: whatever happens, something more has to', lost)
  }
  return {
    states: count,
    transitions,
    depth,
    exhausted,
    seconds: (performance.now() - started) / 1000,
    violations: [...violations.values()],
  }
}
