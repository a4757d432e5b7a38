// @ts-check
// The stages of a release, in order. Each stage writes its results to release/, so that the next one can run on another machine.
import { readFileSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { changesOf } from './changelog.mjs'
import { checkRelease } from './check.mjs'
import { NOTES, writeChecksums } from './checksums.mjs'
import { homeOf } from './home.mjs'
import { outputOf, run } from './run.mjs'
import { billOf } from './sbom.mjs'
import { bundledModules, insideBy, installedWith } from './shipped.mjs'
import { pack, packed, sha256Of } from './tarball.mjs'

/**
 * @typedef {object} Release
 * @property {string} root of the checkout
 * @property {string} folder for the files of the release
 * @property {any} manifest package.json
 * @property {boolean} dryRun
 * @property {string | undefined} sha256 the expected hash of the tarball; undefined for any
 * @property {ReturnType<typeof import('./workflow.mjs').workflowOf>} workflow
 */

/** @param {Release} release @param {string} name */
const textOf = ({ root }, name) => readFileSync(join(root, name), 'utf8')

/** @param {Release} release */
const tarballOf = ({ folder, manifest, sha256 }) => packed(folder, manifest, sha256)

/** @param {Release} release */
const checked = release =>
  checkRelease({
    manifest: release.manifest,
    lock: JSON.parse(textOf(release, 'package-lock.json')),
    changelog: textOf(release, 'CHANGELOG.md'),
    changes: outputOf('git', ['status', '--porcelain'], release.root),
    workflow: release.workflow,
  })

/** @param {Release} release */
function check(release) {
  const { manifest, root } = release
  const { wrong, unpublishable } = checked(release)
  if (wrong.length > 0) throw new Error(wrong.join('\n'))
  if (!release.dryRun && unpublishable.length > 0) throw new Error(unpublishable.join('\n'))
  console.log(`version ${manifest.version} of commit ${outputOf('git', ['rev-parse', 'HEAD'], root)}`)
}

/** @param {Release} release */
function build({ root }) {
  run('npm', ['run', '--silent', 'build'], { cwd: root })
  run('npm', ['run', '--silent', 'prebuilds'], { cwd: root })
}

/** @param {Release} release */
function packIt({ root, folder }) {
  const { file, files, bytes, unpacked } = pack(root, folder)
  console.log(`${relative(root, file)}: ${files} files, ${bytes} bytes, ${unpacked} unpacked`)
  // Passes the hash to the next jobs of the workflow.
  console.log(`sha256=${sha256Of(file)}`)
  if (process.env.GITHUB_OUTPUT)
    writeFileSync(process.env.GITHUB_OUTPUT, `sha256=${sha256Of(file)}\n`, { flag: 'a' })
}

/** @param {Release} release */
function test(release) {
  run('npm', ['run', '--silent', 'test:package'], {
    cwd: release.root,
    env: { FD_BROKER_TARBALL: tarballOf(release).file },
  })
}

/** @param {Release} release */
function sbom(release) {
  const { root, folder, manifest } = release
  const lock = JSON.parse(textOf(release, 'package-lock.json'))
  const installed = installedWith(lock, Object.keys(manifest.dependencies ?? {}))
  const inside = insideBy(lock, bundledModules(root))
  const bill = billOf({
    manifest,
    home: homeOf(manifest),
    sha256: tarballOf(release).sha256,
    time: new Date(outputOf('git', ['log', '-1', '--format=%cI'], root)),
    shipped: [...installed, ...inside],
  })
  const file = join(folder, `${manifest.name}-${manifest.version}.cdx.json`)
  writeFileSync(file, `${JSON.stringify(bill, null, 2)}\n`)
  console.log(
    `${relative(root, file)}: ${installed.length} packages that are installed, ${inside.length} inside`,
  )
}

/** @param {Release} release */
function deb(release) {
  const { file } = tarballOf(release)
  run('npm', ['run', '--silent', 'package:deb', '--', '--tarball', file, '--out', release.folder], {
    cwd: release.root,
  })
}

/** Writes the checksums of the folder, and the release notes. @param {Release} release */
function checksums(release) {
  const { folder, manifest } = release
  const changes = changesOf(textOf(release, 'CHANGELOG.md'), manifest.version)
  writeFileSync(join(folder, NOTES), `${changes?.body ?? ''}\n`)
  console.log(writeChecksums(folder))
}

/** @param {Release} release */
function publish(release) {
  const { dryRun, folder, root, manifest, sha256, workflow } = release
  const { file } = tarballOf(release)
  const tag = manifest.version.includes('-') ? ['--tag', 'next'] : []
  const args = ['publish', `./${relative(root, file)}`, '--access', 'public', ...tag]
  if (dryRun) {
    run('npm', [...args, '--dry-run'], { cwd: root })
    console.log(
      `\nThe workflow would publish ${relative(root, file)}, and attach the files of ${relative(root, folder)}/ to the release.`,
    )
    for (const why of checked(release).unpublishable) console.log(`Now it would refuse: ${why}`)
    return
  }
  if (!workflow?.tag) throw new Error('only a workflow of a tag can publish')
  if (!workflow.mayPublish) throw new Error('the job lacks the permission id-token: write')
  if (sha256 === undefined) throw new Error('the hash of the tested tarball is missing: give --sha256')
  run('npm', [...args, '--provenance'], { cwd: root })
}

/** @type {Record<string, (release: Release) => void>} */
export const STAGES = { check, build, pack: packIt, test, sbom, deb, checksums, publish }
