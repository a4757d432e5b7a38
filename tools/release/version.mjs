// @ts-check
// `npm run release:version -- X.Y.Z [--date YYYY-MM-DD]`: makes two commits for a release. The first sets the version and its heading in
// CHANGELOG.md. The second adds the packed release to those that the skew tests run. Push both commits, with the tag that is printed.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { isDate, withVersion } from './changelog.mjs'
import { NAMED, withNamedVersion } from './named-version.mjs'
import { outputOf, run } from './run.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { date: { type: 'string', default: new Date().toISOString().slice(0, 10) } },
})
const [version = ''] = positionals

/** @param {string} why @returns {never} */
function refuse(why) {
  console.error(`release:version: ${why}`)
  process.exit(2)
}

/** @param {string} path @param {(text: string) => string} change */
function edit(path, change) {
  const file = join(root, path)
  writeFileSync(file, change(readFileSync(file, 'utf8')))
}

/** @param {string} subject @param {string} body */
function commit(subject, body) {
  run('git', ['add', '--all'], { cwd: root })
  run('git', ['commit', '--quiet', '--message', subject, '--message', body], { cwd: root })
}

if (!/^\d+\.\d+\.\d+$/.test(version))
  refuse(`"${version}" is not a version: run npm run release:version -- 1.2.3`)
if (!isDate(values.date)) refuse(`"${values.date}" is not a date`)
if (outputOf('git', ['status', '--porcelain'], root) !== '') refuse('the tree has uncommitted changes')

edit('CHANGELOG.md', text => withVersion(text, version, values.date))
for (const path of Object.keys(NAMED)) edit(path, text => withNamedVersion(path, text, version))
// package.json may already have this version.
run('npm', ['version', version, '--no-git-tag-version', '--allow-same-version', '--ignore-scripts'], {
  cwd: root,
})
commit(`release: ${version}`, 'What was unreleased is under its own heading.')
const released = outputOf('git', ['rev-parse', 'HEAD'], root)

run('npm', ['run', '--silent', 'build'], { cwd: root })
run('npm', ['run', '--silent', 'pack-release'], { cwd: root })
edit('test/fixtures/releases/README.md', text => `${text.trimEnd()}\n| ${version} | ${released} |\n`)
commit(`releases: keep the code of ${version} for tests`, 'Later versions upgrade from it and back to it.')
console.log(`\nTag the first of the two commits: git tag v${version} ${released}`)
