/** One small mistake in a C source, behind its number. */
export interface NativeMutant {
  readonly id: number
  readonly start: number
  readonly end: number
  /** What stands there instead. */
  readonly text: string
}

/** What C sources call; the process's environment says which mistake is made. */
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

/** A C source with all of them in it, each of which does nothing until its number is chosen. They do not overlap. */
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
