import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { ReleasePath } from '../../../src/cli/release-path.js'
import { refuseOwnPath } from '../../../src/os/release-link.js'

const NOBODY = 65_534

/** A release that is a file, and the one that it has replaced; this process may not make another link to a file of root's. */
function filesOfRoot(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-installed-'))
  chmodSync(folder, 0o777)
  for (const name of ['app', 'app.previous', 'new']) writeFileSync(join(folder, name), name, { mode: 0o755 })
  process.seteuid!(NOBODY)
  onTestFinished(() => {
    process.seteuid!(0)
    rmSync(folder, { recursive: true })
  })
  return folder
}

describe.skipIf(
  process.geteuid?.() !== 0 || readFileSync('/proc/sys/fs/protected_hardlinks', 'latin1').trim() !== '1',
)('a release that cannot be kept, as hard links are refused', () => {
  it.each([
    ['installed', (installed: ReleasePath, folder: string) => installed.install(join(folder, 'new'))],
    ['swapped', (installed: ReleasePath) => installed.swap()],
  ])('does not get %s, and all stays as it was', (_how, change) => {
    const folder = filesOfRoot()
    const installed = new ReleasePath(join(folder, 'app'))
    expect(() => change(installed, folder)).toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_RELEASE_LINK',
        message: expect.stringMatching(/cannot replace .*app \(EPERM\): check/),
      }),
    )
    expect(readdirSync(folder).sort()).toEqual(['app', 'app.previous', 'new'])
    expect(readFileSync(join(folder, 'app.previous'), 'utf8')).toBe('app.previous')
  })
})

it('names the release that is kept by an absolute path, also if the links are relative', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-installed-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  for (const release of ['1', '2']) mkdirSync(join(folder, release))
  symlinkSync('1', join(folder, 'current'))
  const installed = new ReleasePath(join(folder, 'current'))
  installed.install(join(folder, '2'))
  installed.commit()
  expect(installed.keptRelease).toBe(join(folder, '1'))
})

it('installs a release where a command of the same pid was killed before: pids of containers are the same ones again', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-installed-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  for (const release of ['1', '2']) mkdirSync(join(folder, release))
  symlinkSync('1', join(folder, 'current'))
  symlinkSync('1', join(folder, `current.${process.pid}~`))
  const installed = new ReleasePath(join(folder, 'current'))
  installed.install(join(folder, '2'))
  installed.commit()
  expect(readlinkSync(join(folder, 'current'))).toBe(join(folder, '2'))
  expect(readdirSync(folder).sort()).toEqual(['1', '2', 'current', 'current.previous'])
})

it.each(
  ['link', 'file'].flatMap(kind =>
    ['current', 'current.previous', 'same/current.previous', 'other'].map(release => ({ kind, release })),
  ),
)(
  'does not install $release at itself, where a $kind is: both will be another release',
  ({ kind, release }) => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-installed-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const path = join(folder, 'current')
    for (const name of ['1', '2']) writeFileSync(join(folder, name), name)
    if (kind === 'link') symlinkSync('1', path)
    else writeFileSync(path, '1')
    symlinkSync('.', join(folder, 'same'))
    symlinkSync('current.previous', join(folder, 'other'))
    const installed = new ReleasePath(path)
    installed.install(join(folder, '2'))
    installed.commit()
    expect(() => new ReleasePath(path).install(join(folder, release))).toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_NO_BINARY',
        message: expect.stringContaining(`fd-broker rollback --at ${path}`),
      }),
    )
    expect([path, `${path}.previous`].map(each => readFileSync(each, 'utf8'))).toEqual(['2', '1'])
    installed.swap()
    expect([path, `${path}.previous`].map(each => readFileSync(each, 'utf8'))).toEqual(['1', '2'])
  },
)

it('refuses a path that leaves the installed release again: the release of that name would be another', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-installed-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  mkdirSync(join(folder, 'releases', '1'), { recursive: true })
  symlinkSync('releases/1', join(folder, 'current'))
  const at = join(folder, 'current')
  // To the kernel this is `releases/2`.
  expect(() => refuseOwnPath(at, `${at}/../2`)).toThrow('is no release of its own')
  expect(() => refuseOwnPath(at, `${folder}/releases/1/../2`)).not.toThrow()
})

it.each(['link', 'file'])('restores no release over that of another command: %s', kind => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-installed-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'current')
  for (const release of ['1', '2', '3']) writeFileSync(join(folder, release), release)
  if (kind === 'link') symlinkSync('1', path)
  else writeFileSync(path, '1')
  const [first, second] = [new ReleasePath(path), new ReleasePath(path)]
  first.install(join(folder, '2'))
  second.install(join(folder, '3'))
  second.commit()
  expect(() => first.revert()).toThrow(expect.objectContaining({ code: 'ERR_FDB_RELEASE_LINK' }))
  expect(readFileSync(path, 'utf8')).toBe('3')
})

it('restores its release also after another command has installed one, and has restored it', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-installed-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'current')
  for (const release of ['1', '2', '3']) mkdirSync(join(folder, release))
  symlinkSync('1', path)
  const [first, second] = [new ReleasePath(path), new ReleasePath(path)]
  first.install(join(folder, '2'))
  second.install(join(folder, '3'))
  second.revert()
  first.revert()
  expect(readlinkSync(path)).toBe('1')
})
