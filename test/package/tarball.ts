import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'

export const ROOT = fileURLToPath(new URL('../..', import.meta.url))

export interface Manifest {
  readonly name: string
  readonly version: string
  readonly scripts?: Record<string, string>
  readonly dependencies?: Record<string, string>
  readonly bin: Record<string, string>
  readonly exports: Record<string, string | Record<string, string>>
}

export interface PackedFile {
  readonly path: string
  readonly bytes: number
  /** Anybody may run it. */
  readonly executable: boolean
}

export interface Tarball {
  readonly path: string
  readonly bytes: number
  readonly files: readonly PackedFile[]
  readonly manifest: Manifest
}

/** Packs the checkout into `folder`, by its own scripts; with `built`, without the one that builds it. */
export function pack(folder: string, built: boolean): Tarball {
  const args = ['pack', '--silent', '--json', '--pack-destination', folder]
  if (built) {
    execFileSync('npm', ['run', '--silent', 'prepack'], { cwd: ROOT, stdio: 'inherit' })
    args.push('--ignore-scripts')
  }
  const out = execFileSync('npm', args, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
  // npm 12 answers by the package's name.
  const answer = JSON.parse(out.slice(out.search(/^[[{]/m)))
  const [{ filename }] = (Array.isArray(answer) ? answer : Object.values(answer)) as [{ filename: string }]
  return readTarball(join(folder, filename))
}

export function readTarball(path: string): Tarball {
  const tar = gunzipSync(readFileSync(path))
  const files: PackedFile[] = []
  let manifest: Manifest | undefined
  for (let at = 0; tar[at] !== 0; ) {
    const text = (from: number, length: number) =>
      tar.toString('utf8', at + from, at + from + length).replace(/\0.*$/s, '')
    const bytes = Number.parseInt(text(124, 12), 8)
    const prefix = text(345, 155)
    const name = (prefix === '' ? text(0, 100) : `${prefix}/${text(0, 100)}`).replace(/^package\//, '')
    files.push({ path: name, bytes, executable: (Number.parseInt(text(100, 8), 8) & 0o111) === 0o111 })
    if (name === 'package.json') manifest = JSON.parse(tar.toString('utf8', at + 512, at + 512 + bytes))
    at += 512 + Math.ceil(bytes / 512) * 512
  }
  if (manifest === undefined) throw new Error(`${path} has no package.json`)
  return { path, bytes: statSync(path).size, files, manifest }
}

/**
 * The same, with the addon that this checkout has built where there is no prebuilt one for this machine: it is then as a
 * release would be, for this machine alone.
 */
export function withAddon(tarball: Tarball, folder: string): Tarball {
  const place = `prebuilds/${process.platform}-${process.arch}`
  if (tarball.files.some(({ path }) => path.startsWith(`${place}/`))) return tarball
  const staged = join(folder, 'staged')
  mkdirSync(staged)
  execFileSync('tar', ['-xzf', tarball.path, '-C', staged])
  const addon = join(staged, 'package', place, 'fd-broker.glibc.node')
  mkdirSync(dirname(addon), { recursive: true })
  copyFileSync(join(ROOT, 'build/Release/fd_broker.node'), addon)
  const path = join(folder, 'with-addon.tgz')
  execFileSync('tar', ['-czf', path, '-C', staged, 'package'])
  return readTarball(path)
}

/** A package of the same name that has nothing but a command that says its version: what a package manager costs by itself. */
export function bareTarball({ manifest: { name } }: Tarball, folder: string): Tarball {
  const version = '0.0.0'
  const staged = join(folder, 'bare', 'package')
  mkdirSync(staged, { recursive: true })
  writeFileSync(
    join(staged, 'package.json'),
    JSON.stringify({ name, version, license: 'UNLICENSED', bin: { [name]: 'cli.cjs' } }),
  )
  writeFileSync(join(staged, 'cli.cjs'), `#!/usr/bin/env node\nconsole.log('${version}')\n`, { mode: 0o755 })
  const path = join(folder, 'bare.tgz')
  execFileSync('tar', ['-czf', path, '-C', join(folder, 'bare'), 'package'])
  return readTarball(path)
}
