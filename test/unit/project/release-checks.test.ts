import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { changesOf, withVersion } from '../../../tools/release/changelog.mjs'
import { checkRelease } from '../../../tools/release/check.mjs'
import { writeChecksums } from '../../../tools/release/checksums.mjs'
import { homeOf, withHome } from '../../../tools/release/home.mjs'
import { NAMED, withNamedVersion } from '../../../tools/release/named-version.mjs'
import { packed } from '../../../tools/release/tarball.mjs'
import { workflowOf } from '../../../tools/release/workflow.mjs'

const HOME = 'https://host.test/owner/fd-broker'
const CHANGELOG = `# Changelog

## Unreleased

## 1.2.3 - 2026-01-02

### Added

- A thing.

## 1.2.2
`

const WORKFLOW = {
  GITHUB_ACTIONS: 'true',
  GITHUB_SERVER_URL: 'https://host.test',
  GITHUB_REPOSITORY: 'owner/fd-broker',
  GITHUB_WORKFLOW_REF: 'owner/fd-broker/.github/workflows/release.yml@refs/tags/v1.2.3',
  GITHUB_REF_TYPE: 'tag',
  GITHUB_REF_NAME: 'v1.2.3',
}

function checkout(changes: Partial<Parameters<typeof checkRelease>[0]> = {}) {
  const manifest = withHome({ name: 'fd-broker', version: '1.2.3' }, HOME)
  const lock = { version: '1.2.3', packages: { '': { version: '1.2.3' } } }
  return checkRelease({ manifest, lock, changelog: CHANGELOG, changes: '', workflow: null, ...changes })
}

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'fdb-release-test-'))
  onTestFinished(() => rmSync(made, { recursive: true }))
  return made
}

describe('a release', () => {
  it('has a version of which package.json, the lock file and the changelog say the same, with all changes in a commit', () => {
    expect(checkout()).toEqual({ wrong: [], unpublishable: [] })
    const said = (changes: Parameters<typeof checkout>[0]) => checkout(changes).wrong.join('\n')
    expect(said({ changes: ' M README.md' })).toContain('README.md')
    expect(said({ lock: { version: '1.2.2', packages: { '': { version: '1.2.3' } } } })).toContain(
      'package-lock.json has version 1.2.2',
    )
    expect(said({ changelog: CHANGELOG.replace(' - 2026-01-02', '') })).toContain('no date')
    expect(said({ changelog: CHANGELOG.replace('2026-01-02', '2026-13-02') })).toContain('no date')
    expect(said({ changelog: CHANGELOG.replace('1.2.3', '1.2.4') })).toContain('no heading')
    expect(said({ changelog: CHANGELOG.replace('## 1.2.3', '- More.\n\n## 1.2.3') })).toContain('Unreleased')
    expect(said({ changelog: CHANGELOG.replace('### Added\n\n- A thing.', '') })).toContain(
      '1.2.3 has no changes',
    )
  })

  it('comes from where package.json says that the project lives, at a tag of its version', () => {
    const workflow = workflowOf(WORKFLOW)
    expect(checkout({ workflow })).toEqual({ wrong: [], unpublishable: [] })
    const elsewhere = workflowOf({ ...WORKFLOW, GITHUB_SERVER_URL: 'https://other.test' })
    expect(checkout({ workflow: elsewhere }).unpublishable.join()).toContain(
      'https://other.test/owner/fd-broker',
    )
    const tagged = workflowOf({ ...WORKFLOW, GITHUB_REF_NAME: 'v1.2.4' })
    expect(checkout({ workflow: tagged }).wrong.join()).toContain('v1.2.4')
  })

  it('cannot be published while package.json has no home of the project', () => {
    for (const repository of [undefined, '', { url: 'git+.git' }]) {
      const { wrong, unpublishable } = checkout({
        manifest: { name: 'fd-broker', version: '1.2.3', repository },
      })
      expect(wrong).toEqual([])
      expect(unpublishable).toHaveLength(1)
    }
    const { homepage, bugs, ...at } = withHome({ name: 'fd-broker', license: 'MIT', type: 'module' }, HOME)
    expect([homepage, bugs]).toEqual([`${HOME}#readme`, `${HOME}/issues`])
    expect(Object.keys(at)).toEqual(['name', 'license', 'repository', 'type'])
    expect(homeOf(at)).toEqual({ url: HOME, decided: true })
    expect(withHome({ homepage, bugs, ...at }, 'https://other.test/o/n')).toMatchObject({
      repository: { url: 'git+https://other.test/o/n.git' },
    })
    expect(() => withHome({}, 'https://host.test/owner')).toThrow('HOST/OWNER/NAME')
  })

  it('comes from one workflow only', () => {
    expect(workflowOf(WORKFLOW)).toEqual({ home: HOME, tag: 'v1.2.3', mayPublish: false })
    expect(workflowOf({ ...WORKFLOW, ACTIONS_ID_TOKEN_REQUEST_URL: 'https://host.test/' })?.mayPublish).toBe(
      true,
    )
    expect(workflowOf({})).toBeNull()
    const other = 'owner/fd-broker/.github/workflows/ci.yml@refs/heads/main'
    expect(workflowOf({ ...WORKFLOW, GITHUB_WORKFLOW_REF: other })).toBeNull()
    const main = fileURLToPath(new URL('../../../tools/release/main.mjs', import.meta.url))
    const env = { PATH: process.env.PATH }
    const released = spawnSync(process.execPath, [main], { encoding: 'utf8', env })
    expect(released).toMatchObject({ status: 2, stdout: '' })
    expect(released.stderr).toContain('--dry-run')
    const misspelt = spawnSync(process.execPath, [main, '--dry-run', 'chekc'], { encoding: 'utf8', env })
    expect(misspelt).toMatchObject({ status: 2, stdout: '' })
  })

  it('has the tarball whose hash was told, and no other', () => {
    const made = folder()
    const manifest = { name: 'fd-broker', version: '1.2.3' }
    expect(() => packed(made, manifest, undefined)).toThrow('run the stage "pack"')
    writeFileSync(join(made, 'fd-broker-1.2.3.tgz'), 'one')
    const { sha256 } = packed(made, manifest, undefined)
    expect(packed(made, manifest, sha256).sha256).toBe(sha256)
    writeFileSync(join(made, 'fd-broker-1.2.3.tgz'), 'another')
    expect(() => packed(made, manifest, sha256)).toThrow('is not the tarball that was packed')
  })

  it('has the version of package.json in every file that names it, and release:version writes the next one there', () => {
    const read = (path: string) => readFileSync(new URL(`../../../${path}`, import.meta.url), 'utf8')
    const { version } = JSON.parse(read('package.json'))
    expect(Object.keys(NAMED)).toEqual([
      'proto/clients/python/pyproject.toml',
      'proto/clients/python/fd_broker/__init__.py',
    ])
    for (const path of Object.keys(NAMED)) {
      const text = read(path)
      expect(withNamedVersion(path, text, version), path).toBe(text)
      const next = withNamedVersion(path, text, '98.7.6')
      expect(next.match(/98\.7\.6/g), path).toHaveLength(1)
      expect(withNamedVersion(path, next, version), path).toBe(text)
      expect(() => withNamedVersion(path, '', version), path).toThrow(path)
    }
  })

  it('comes with checksums that sha256sum reads', () => {
    const made = folder()
    for (const name of ['b.deb', 'a.tgz']) writeFileSync(join(made, name), name)
    writeChecksums(made)
    // Written again, they do not count themselves.
    expect(
      writeChecksums(made)
        .split('\n')
        .map(line => line.slice(66)),
    ).toEqual(['a.tgz', 'b.deb', ''])
    const { status } = spawnSync('sha256sum', ['--check', '--strict', 'SHA256SUMS'], { cwd: made })
    expect(status).toBe(0)
  })
})

describe('the changelog', () => {
  it('has one part for each version', () => {
    expect(changesOf(CHANGELOG, '1.2.3')).toEqual({ date: '2026-01-02', body: '### Added\n\n- A thing.' })
    expect(changesOf(CHANGELOG, '1.2.2')).toEqual({ date: null, body: '' })
    expect(changesOf(CHANGELOG, '1.2')).toBeNull()
  })

  it('gives what was unreleased the heading of a version', () => {
    const before = CHANGELOG.replace('## Unreleased\n', '## Unreleased\n\n- New.\n')
    const after = withVersion(before, '1.3.0', '2026-03-04')
    expect(changesOf(after, 'Unreleased')).toEqual({ date: null, body: '' })
    expect(changesOf(after, '1.3.0')).toEqual({ date: '2026-03-04', body: '- New.' })
    expect(changesOf(after, '1.2.3')).toEqual(changesOf(CHANGELOG, '1.2.3'))
    expect(() => withVersion(before, '1.2.3', '2026-03-04')).toThrow('already')
    expect(() => withVersion(CHANGELOG, '1.3.0', '2026-03-04')).toThrow('nothing')
  })
})
