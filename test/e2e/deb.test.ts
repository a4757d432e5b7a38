import { execFileSync, spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { arch, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { writeDeb } from '../../tools/deb/archive.mjs'
import { ARCHITECTURES } from '../../tools/deb/control.mjs'
import { pack } from '../../tools/release/tarball.mjs'
import { NIGHTLY } from '../lanes/lane.js'
import { PrivateRoot } from '../processes/private-root.js'
import type { Version } from '../processes/release.js'
import { behind } from './edge-behind.js'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
const [architecture = ''] = Object.entries(ARCHITECTURES).find(([, of]) => of === arch()) ?? []
const made = mkdtempSync(join(tmpdir(), 'fdb-deb-test-'))
const machine = new PrivateRoot(join(made, 'root'))
const hasDpkg = spawnSync('dpkg', ['--version']).status === 0

afterAll(() => PrivateRoot.asRoot('rm', '-rf', made))

/** The npm tarball, with the addon that was built here as the prebuilt one. */
function tarball(): string {
  const { file } = pack(ROOT, join(made, 'packed'))
  execFileSync('tar', ['-xzf', file, '-C', made])
  const folder = join(made, `package/prebuilds/linux-${arch()}`)
  mkdirSync(folder, { recursive: true })
  cpSync(join(ROOT, 'build/Release/fd_broker.node'), join(folder, 'fd-broker.glibc.node'))
  execFileSync('tar', ['-czf', file, '-C', made, 'package'])
  return file
}

/** Says that a package is installed in the private root. */
function installed(name: string, of: string): string {
  return `Package: ${name}\nStatus: install ok installed\nVersion: ${of}\nArchitecture: ${architecture}\nMaintainer: x <x@x.test>\nDescription: x\n\n`
}

/** As `dpkg` of that root. */
function dpkg(...args: string[]): string {
  return PrivateRoot.asRoot('dpkg', `--root=${machine.folder}`, '--force-script-chrootless', ...args)
}

describe.runIf(NIGHTLY && hasDpkg && architecture !== '')('the Debian package', () => {
  const deb = join(made, `fd-broker_${version}_${architecture}.deb`)

  beforeAll(() => {
    const build = ['tools/deb/main.mjs', '--tarball', tarball(), '--out', made, '--arch', architecture]
    execFileSync(process.execPath, build, { cwd: ROOT, stdio: 'pipe' })
    const admin = join(machine.folder, 'var/lib/dpkg')
    for (const folder of ['info', 'updates']) mkdirSync(join(admin, folder), { recursive: true })
    writeFileSync(join(admin, 'status'), installed('nodejs', '18.20.4+dfsg-1~deb12u1'))
  })

  it('refuses a Node that is too old, and accepts one that is not', () => {
    expect(() => dpkg('--install', deb)).toThrow(/fd-broker depends on nodejs \(>= 20\.19\)/)
    const status = join(machine.folder, 'var/lib/dpkg/status')
    const text = readFileSync(status, 'utf8').replace('18.20.4+dfsg-1~deb12u1', '20.19.2+dfsg-1')
    writeFileSync(status, text)
    dpkg('--configure', 'fd-broker')
    const told = dpkg('--status', 'fd-broker')
    for (const line of [
      'Status: install ok installed',
      `Version: ${version}`,
      `Architecture: ${architecture}`,
    ])
      expect(told.split('\n')).toContain(line)
  })

  it('has the files of root, each readable by everybody and writable by nobody else', () => {
    const listed = execFileSync('dpkg-deb', ['--contents', deb], { encoding: 'utf8' }).trim().split('\n')
    expect(listed.length).toBeGreaterThan(20)
    for (const line of listed) expect(line).toMatch(/^([d-]rw[x-]r-[x-]r-[x-]|lrwxrwxrwx) root\/root /)
    const executable = listed.filter(line => line.startsWith('-rwx'))
    expect(executable).toHaveLength(1)
    const names = listed.map(line => line.split(/\s+/)[5])
    expect(names).toContain('./usr/share/man/man1/fd-broker.1.gz')
    for (const shell of ['bash-completion/completions/', 'zsh/vendor-completions/_'])
      expect(names).toContain(`./usr/share/${shell}fd-broker`)
    expect(names).toContain('./usr/share/fish/vendor_completions.d/fd-broker.fish')
    expect(names).toContain('./usr/share/doc/fd-broker/copyright')
    expect(names.join()).not.toContain('.code-cache')
    // Nothing for other platforms, and nothing that only builds.
    expect(names.filter(name => name?.endsWith('.node'))).toHaveLength(1)
    expect(
      names.filter(name => /\.(map|d\.[cm]?ts)$/.test(name ?? '') && name?.includes('/node_modules/')),
    ).toEqual([])
  })

  it('has the units of the daemon, whose command it brings, and those of other services as examples', () => {
    const folder = join(machine.folder, 'usr/lib/systemd/system')
    expect(readdirSync(folder).sort()).toEqual(['fd-broker.service', 'fd-broker.socket'])
    const examples = join(machine.folder, 'usr/share/doc/fd-broker/examples/systemd')
    const files = [
      join(folder, 'fd-broker.service'),
      ...readdirSync(examples).map(name => join(examples, name)),
    ]
    const commands = files.flatMap(file => [
      ...readFileSync(file, 'utf8').matchAll(/^Exec\w+=[-@:+!]*(\S+)/gm),
    ])
    const own = commands.map(([, command]) => command).filter(command => command !== '/usr/bin/node')
    expect(own.length).toBeGreaterThan(2)
    expect(new Set(own)).toEqual(new Set(['/usr/bin/fd-broker']))
    expect(existsSync(join(machine.folder, '/usr/bin/fd-broker'))).toBe(true)
  })

  it('has a manual page that can be read', ({ skip }) => {
    if (spawnSync('man', ['--version']).status !== 0) skip('there is no man here')
    const page = join(machine.folder, 'usr/share/man/man1/fd-broker.1.gz')
    const shown = spawnSync('man', ['--warnings', '--local-file', page], {
      encoding: 'utf8',
      env: { ...process.env, MANWIDTH: '100' },
    })
    expect(shown).toMatchObject({ status: 0, stderr: '' })
    expect(shown.stdout).toMatch(/fd-broker proxy/)
  })

  it('runs from there: the proxy is replaced while a connection is open, and by the command', async ({
    skip,
  }) => {
    if (!machine.possible) skip('this machine allows no overlay in a namespace')
    const cli = [...machine.enter, '/usr/bin/fd-broker']
    const there: Version = { name: 'the Debian package', cli, program: () => [] }
    const edge = await behind({}, there)
    expect(await edge.sandbox.runCommand([...cli, '--version'])).toEqual({
      code: 0,
      stdout: `${version}\n`,
      stderr: '',
    })
    const first = await edge.pid
    expect(readFileSync(`/proc/${first}/cmdline`, 'utf8')).toContain('/usr/bin/fd-broker')
    const talk = await edge.talking()
    const second = await edge.next(there)
    await edge.ended(first)
    await talk.says('in the second')
    const upgraded = await edge.sandbox.runCommand([
      ...cli,
      'upgrade',
      '--json',
      '--control',
      edge.sandbox.control,
    ])
    expect({ ...upgraded, stdout: JSON.parse(upgraded.stdout) }).toMatchObject({
      code: 0,
      stdout: { generation: 3 },
    })
    await edge.ended(second)
    await talk.says('in the third')
    talk.socket.close(1000)
  })

  it('leaves no trace when it is removed, of its code cache neither', () => {
    execFileSync(process.execPath, [join(machine.folder, 'usr/bin/fd-broker'), '--version'])
    dpkg('--purge', 'fd-broker')
    for (const path of ['usr/bin/fd-broker', 'usr/lib/fd-broker', 'usr/share/doc/fd-broker'])
      expect(existsSync(join(machine.folder, path)), path).toBe(false)
  })
})

describe.skipIf(!hasDpkg)('a .deb that is made without dpkg-deb', () => {
  it('equals one that is made with it, always by the same bytes', () => {
    const tree = join(made, 'tree')
    mkdirSync(join(tree, 'DEBIAN'), { recursive: true })
    mkdirSync(join(tree, 'usr/bin'), { recursive: true })
    const fields = [
      'Package: x',
      'Version: 1',
      'Architecture: all',
      'Maintainer: x <x@x.test>',
      'Description: x',
    ]
    writeFileSync(join(tree, 'DEBIAN/control'), `${fields.join('\n')}\n`)
    writeFileSync(join(tree, 'usr/bin/x'), '#!/bin/sh\n', { mode: 0o755 })
    const made2 = (name: string, byHand: boolean) => {
      const file = join(made, name)
      writeDeb(tree, file, new Date(1_700_000_000_000), { byHand })
      const told = (option: string) => execFileSync('dpkg-deb', [option, file], { encoding: 'utf8' })
      return { bytes: readFileSync(file), contents: told('--contents'), fields: told('--field') }
    }
    const one = made2('one.deb', true)
    const [again, other] = [made2('again.deb', true), made2('other.deb', false)]
    expect(again.bytes.equals(one.bytes)).toBe(true)
    expect(other).toMatchObject({ contents: one.contents, fields: one.fields })
    rmSync(tree, { recursive: true })
  })
})
