import { importsOf, type Sources } from './imports.js'
import { codeOf } from './source-text.js'

/** A value is taken for a type that it has not: a test looks into what it tests, or gives it a part of what it needs. */
const CAST = /\bas\s+(?:never|unknown\s+as)\b/g

/** How many such casts there are in these sources. */
export function castsIn(sources: Sources): number {
  return [...sources.values()].reduce((sum, source) => sum + (codeOf(source).match(CAST)?.length ?? 0), 0)
}

/** The files of `src` that these sources import. */
export function importedBy(sources: Sources): Set<string> {
  const imports = [...sources].flatMap(([path, source]) => importsOf(path, source))
  return new Set(imports.map(({ to }) => to).filter(to => to.startsWith('src/')))
}
