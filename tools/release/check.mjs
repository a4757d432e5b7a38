// @ts-check
// What must be so before a version is released.
import { changesOf, isDate } from './changelog.mjs'
import { homeOf } from './home.mjs'

/**
 * @typedef {object} Checkout
 * @property {any} manifest package.json
 * @property {any} lock package-lock.json
 * @property {string} changelog
 * @property {string} changes what git calls changed, empty: nothing
 * @property {ReturnType<typeof import('./workflow.mjs').workflowOf>} workflow
 */

/**
 * @param {Checkout} checkout
 * @returns {{ wrong: string[], unpublishable: string[] }} `wrong`: this is no release. `unpublishable`: it is one, and only what
 *   publishes it is missing.
 */
export function checkRelease({ manifest, lock, changelog, changes, workflow }) {
  const { version } = manifest
  const wrong = []
  if (changes !== '') wrong.push(`the tree has changes that are in no commit:\n${changes}`)
  if (!/^\d+\.\d+\.\d+(-[0-9a-z.-]+)?$/.test(version)) wrong.push(`"${version}" is no version to release`)
  for (const [where, found] of [
    ['package-lock.json', lock.version],
    ['package-lock.json, packages', lock.packages?.['']?.version],
  ])
    if (found !== version) wrong.push(`${where} has version ${found}, package.json ${version}`)

  const section = changesOf(changelog, version)
  if (section === null) wrong.push(`CHANGELOG.md has no heading "## ${version} - DATE"`)
  else {
    if (!isDate(section.date)) wrong.push(`CHANGELOG.md: ${version} has no date (${section.date})`)
    if (section.body === '') wrong.push(`CHANGELOG.md says nothing of ${version}`)
  }
  if (changesOf(changelog, 'Unreleased')?.body)
    wrong.push('CHANGELOG.md has changes under "Unreleased": they are in this version')

  const unpublishable = []
  const { url, decided } = homeOf(manifest)
  if (!decided) {
    unpublishable.push(
      `package.json does not say yet where the project lives (repository: ${url || 'none'}): node tools/release/home.mjs https://HOST/OWNER/NAME`,
    )
  } else if (workflow !== null && workflow.home !== url)
    unpublishable.push(`package.json says that the project lives at ${url}, this is ${workflow.home}`)
  if (workflow?.tag && workflow.tag !== `v${version}`)
    wrong.push(`the tag is ${workflow.tag}, the version ${version}`)
  return { wrong, unpublishable }
}
