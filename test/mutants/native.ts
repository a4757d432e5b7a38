import type { Mutant } from './places.js'

/** One small mistake in a C source, behind its number. */
export interface NativeMutant {
  readonly id: number
  readonly start: number
  readonly end: number
  /** The text that replaces it. */
  readonly text: string
}

/** Functions for the C sources; the process's environment says which mistake is made. */
const HEADER = `
#include <stdlib.h>
static inline int fdb_mutated(int id) {
  static int chosen = -1;
  if (chosen < 0) { const char *said = getenv("FDB_MUTANT"); chosen = said == NULL ? 0 : atoi(said); }
  return chosen == id;
}
`

/** The header with what switches mistakes on. */
export function switchableHeader(source: string): string {
  const at = source.lastIndexOf('#endif')
  return source.slice(0, at) + HEADER + source.slice(at)
}

/** Returns a C source with all mutants in it, each of which does nothing until its number is chosen. The mutants do not overlap. */
export function withNativeMutants(source: string, mutants: readonly NativeMutant[]): string {
  let text = ''
  let at = 0
  for (const { id, start, end, text: instead } of mutants.toSorted((a, b) => a.start - b.start)) {
    if (start < at) throw new Error(`two mistakes overlap at ${source.slice(start, end)}`)
    text += source.slice(at, start) + switched(id, source.slice(start, end), instead)
    at = end
  }
  return text + source.slice(at)
}

function switched(id: number, now: string, instead: string): string {
  if (/[;}]\s*$/.test(now)) return `if (fdb_mutated(${id})) { ${instead} } else { ${now} }`
  return `(fdb_mutated(${id}) ? (${instead}) : (${now}))`
}

/** Left out they change only what is freed or closed, or what is written. */
const CALL = /^ +((?:close|free|memcpy|memset|unlink|fdb_\w+)\([^;{}]*\);)$/gm

/** Conditions the other way round, and calls left out. */
export function nativePlaces(source: string): Mutant[] {
  const mutants: Mutant[] = []
  for (const { index, 0: head } of source.matchAll(/\bif \(/g)) {
    const start = index + head.length
    const end = closing(source, start)
    const text = source.slice(start, end)
    if (text.includes('#')) continue
    mutants.push({ start, end, form: 'expression', text: `!(${text})`, kind: 'the other way', within: '' })
  }
  for (const found of source.matchAll(CALL)) {
    const start = found.index + found[0].indexOf(found[1]!)
    const end = found.index + found[0].length
    mutants.push({ start, end, form: 'statement', text: '', kind: 'left out', within: '' })
  }
  return mutants
}

/** Where the parenthesis ends that is open at `at`. */
function closing(source: string, at: number): number {
  for (let depth = 1; at < source.length; at++) {
    if (source[at] === '(') depth++
    else if (source[at] === ')' && --depth === 0) return at
  }
  return at
}
