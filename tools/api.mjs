// @ts-check
// `npm run api`: compares the public API of the last build with the reports in `test/api`. If they differ, prints the difference and exits
// with code 1. `npm run api -- --update` overwrites the reports, so that a commit's diff shows each change of the public API.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { ENTRIES } from './declarations/entries.mjs'

const { values: flags } = parseArgs({ options: { update: { type: 'boolean', default: false } } })
const root = fileURLToPath(new URL('..', import.meta.url))
mkdirSync(join(root, 'test/api'), { recursive: true })

for (const { name } of ENTRIES) {
  const report = join(root, 'test/api', `${name}.api.md`)
  const built = join(root, 'build/declarations', `${name}.api.md`)
  const now = readFileSync(built, 'utf8')
  if (existsSync(report) && readFileSync(report, 'utf8') === now) continue
  if (flags.update) {
    writeFileSync(report, now)
    console.log(`api: wrote ${relative(root, report)}`)
    continue
  }
  spawnSync('diff', ['-uN', relative(root, report), relative(root, built)], { cwd: root, stdio: 'inherit' })
  console.error(
    'api: the public API has changed. If the change is intended, run npm run api -- --update and add a line to CHANGELOG.md.',
  )
  process.exitCode = 1
}
