// @ts-check
import { readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'

/** The forms of imports that tsc writes: `from './x.js'`, `import './x.js'` and `import('./x.js')`. */
const REFERENCES = /\b(?:from|import)\s*\(?\s*(['"])(\.[^'"]+)\.js\1/g

/**
 * Returns the declarations that a consumer's compiler reads for these entries, directly or through imports: texts by paths.
 * @param {string} folder
 * @param {readonly string[]} entries paths in it
 */
export function reachable(folder, entries) {
  /** @type {Map<string, string>} */
  const found = new Map()
  const left = [...entries]
  for (let path = left.pop(); path !== undefined; path = left.pop()) {
    if (found.has(path)) continue
    const text = readFileSync(join(folder, path), 'utf8')
    found.set(path, text)
    for (const [, , name] of text.matchAll(REFERENCES))
      left.push(`${normalize(join(dirname(path), name ?? ''))}.d.ts`)
  }
  return found
}
