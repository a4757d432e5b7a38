// @ts-check
// Checks whether a checkout can be released.
import { changesOf, isDate } from './changelog.mjs'
import { homeOf } from './home.mjs'

/**
 * @typedef {object} Checkout
 * @property {any} manifest package.json
 * @property {any} lock package-lock.json
 * @property {string} changelog
 * @property {string} changes output of `git status --porcelain`; empty if nothing has changed
 * @property {ReturnType<typeof import('./workflow.mjs').workflowOf>} workflow
 */

/**
 * @param {Checkout} checkout
 * @returns {{ wrong: string[], unpublishable: string[] }} `wrong`: reasons not to release it. `unpublishable`: reasons only against publishing
 *   the release.
 */
export function checkRelease({ manifest, lock, changelog, changes, workflow }) {
  const { version } = manifest
  const wrong = []
  if (changes !== '') wrong.push(`the tree has uncommitted changes:\n${changes}`)
  if (!/^\d+\.\d+\.\d+(-[0-9a-z.-]+)?$/.test(version))
    wrong.push(`"${version}" is not a version that can be released`)
  for (const [where, found] of [
    ['package-lock.json', lock.version],
    ['package-lock.json, packages', lock.packages?.['']?.version],
  ])
    if (found !== version) wrong.push(`${where} has version ${found}, package.json ${version}`)

  const section = changesOf(changelog, version)
  if (section === null) wrong.push(`CHANGELOG.md has no heading "## ${version} - DATE"`)
  else {
    if (!isDate(section.date)) wrong.push(`CHANGELOG.md: ${version} has no date (${section.date})`)
    if (section.body === '') wrong.push(`CHANGELOG.md: ${version} has no changes`)
  }
  if (changesOf(changelog, 'Unreleased')?.body)
    wrong.push('CHANGELOG.md has changes under "Unreleased": move them to this version')

  const unpublishable = []
  const { url, decided } = homeOf(manifest)
  if (!decided) {
    unpublishable.push(
      `package.json has no home of the project (repository: ${url || 'none'}): run node tools/release/home.mjs https://HOST/OWNER/NAME`,
    )
  } else if (workflow !== null && workflow.home !== url)
    unpublishable.push(`the home in package.json is ${url}, but this workflow runs at ${workflow.home}`)
  if (workflow?.tag && workflow.tag !== `v${version}`)
    wrong.push(`the tag is ${workflow.tag}, the version ${version}`)
  return { wrong, unpublishable }
}
