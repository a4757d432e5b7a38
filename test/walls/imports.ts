import { readdirSync, readFileSync } from 'node:fs'
import { join, posix } from 'node:path'
import { codeWithStrings } from './source-text.js'

/** The text of each file, by its path from the root of the project: `src/errors.ts`. */
export type Sources = ReadonlyMap<string, string>

export interface Import {
  readonly from: string
  /** A path from the root for a file of ours; otherwise the name as it is written: `node:net`, `commander`. */
  readonly to: string
  readonly line: number
}

/** All TypeScript sources below `folder`, without what is generated. */
export function sourcesBelow(root: string, folder: string): Sources {
  const names = readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
  const paths = names.map(name => posix.join(folder, name)).filter(isSource)
  const texts = paths.sort().map(path => [path, readFileSync(join(root, path), 'utf8')] as const)
  return new Map(texts.filter(([, text]) => !text.startsWith('// Generated ')))
}

function isSource(path: string): boolean {
  return path.endsWith('.ts') && !path.endsWith('.d.ts')
}

/** `import`, `import type` and `export … from`; `import(…)` of a module and of a type; `require(…)`; what a worker is started with. */
const IMPORTS = [
  /^\s*(?:import|export)\b[\w\s{},*$]*?\bfrom\s*(['"])(.+?)\1/gm,
  /^\s*import\s*(['"])(.+?)\1/gm,
  /(?<![.#])\b(?:import|require)\s*\(\s*(['"])(.+?)\1/g,
  /\bnew\s+URL\(\s*(['"])(\.[^'"]+?\.js)\1/g,
]

export function importsOf(path: string, source: string): Import[] {
  const code = codeWithStrings(source)
  const found = IMPORTS.flatMap(pattern =>
    [...code.matchAll(pattern)].map(match => ({
      from: path,
      to: resolved(path, match[2]!),
      line: lineAt(code, match.index + match[0].search(/\S/)),
    })),
  )
  return found.sort((a, b) => a.line - b.line)
}

function resolved(from: string, name: string): string {
  if (!name.startsWith('.')) return name
  return posix.join(posix.dirname(from), name).replace(/\.js$/, '.ts')
}

export function lineAt(text: string, index: number): number {
  return text.slice(0, index).split('\n').length
}
