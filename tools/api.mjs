// @ts-check
// `npm run api`: compares what the entries of the package export with the reports in `api/`, and prints what is otherwise (exit
// code 1). `npm run api -- --update` writes the reports: a change of the public API is seen in the diff of its commit. Build first.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { brief } from './api/brief.mjs'
import { ENTRIES } from './api/entries.mjs'
import { Declarations } from './api/extract.mjs'

const { values: flags } = parseArgs({ options: { update: { type: 'boolean', default: false } } })
const root = fileURLToPath(new URL('..', import.meta.url))
const folder = join(root, 'api')

const reports = brief(new Declarations(root, join(root, 'build/modules'), ENTRIES).reports())
const made = mkdtempSync(join(tmpdir(), 'fdb-api-'))
try {
  for (const [name, text] of reports) {
    const file = join(folder, `${name}.api.md`)
    if (existsSync(file) && readFileSync(file, 'utf8') === text) continue
    if (flags.update) {
      mkdirSync(folder, { recursive: true })
      writeFileSync(file, text)
      console.log(`api: wrote api/${name}.api.md`)
      continue
    }
    const now = join(made, `${name}.api.md`)
    writeFileSync(now, text)
    spawnSync(
      'diff',
      [
        '-u',
        '--label',
        `api/${name}.api.md`,
        '--label',
        'what is exported',
        existsSync(file) ? file : '/dev/null',
        now,
      ],
      {
        stdio: 'inherit',
      },
    )
    console.error(
      'api: the public API has changed. If it is to: npm run api -- --update, and a line in CHANGELOG.md.',
    )
    process.exitCode = 1
  }
} finally {
  rmSync(made, { recursive: true })
}
