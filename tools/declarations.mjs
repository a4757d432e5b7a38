// @ts-check
// Generates build/declarations from the declarations that tsc has written to build/modules:
//
//   index.d.ts, proxy.d.ts …   the names that an entry of the package exports
//   declarations.d.ts          the declarations behind all these names, without `@internal` ones
//   index.api.md …             a report of each entry; `npm run api` compares it with the one in test/api
//
// Does nothing if its input has not changed since the last run.
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ENTRIES } from './declarations/entries.mjs'
import { reachable } from './declarations/reachable.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const modules = join(root, 'build/modules')
const made = join(root, 'build/declarations')

const print = hashOf([
  ...reachable(
    modules,
    ENTRIES.map(({ path }) => path),
  ),
  ...readdirSync(join(root, 'tools/declarations')).map(
    name => /** @type {const} */ ([name, readFileSync(join(root, 'tools/declarations', name), 'utf8')]),
  ),
])
const stamp = join(made, 'made-of')
if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== print) {
  // Imported on demand: api-extractor takes long to load.
  const { Declarations } = await import('./declarations/extract.mjs')
  const { brief } = await import('./declarations/brief.mjs')
  const declarations = new Declarations(root, modules, ENTRIES)
  rmSync(made, { recursive: true, force: true })
  mkdirSync(made, { recursive: true })
  for (const [name, text] of declarations.rolledUp()) writeFileSync(join(made, name), text)
  for (const [name, text] of brief(declarations.reports())) writeFileSync(join(made, `${name}.api.md`), text)
  writeFileSync(stamp, print)
}

/** @param {readonly (readonly [name: string, text: string])[]} texts */
function hashOf(texts) {
  const hash = createHash('sha256')
  for (const [name, text] of [...texts].sort(([a], [b]) => (a < b ? -1 : 1)))
    hash.update(`${name}\0${text}\0`)
  return hash.digest('hex')
}
