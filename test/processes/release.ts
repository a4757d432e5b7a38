import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { afterAll } from 'vitest'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const ADDON = process.env.FD_BROKER_ADDON ?? join(ROOT, 'build/Release/fd_broker.node')
/** What differs there in what the addon did by itself. */
const ADDON_BEFORE = join(ROOT, 'test/fixtures/addon-before-0.3.cjs')

/** A version of fd-broker that processes of a test can run. */
export interface Version {
  readonly name: string
  /** What starts its command line, as unrelated processes are started. */
  readonly cli: readonly string[]
  /** What starts a program of test/fixtures, for which `fd-broker` is this version. */
  program(file: URL): readonly string[]
}

/** The file of its command: each release has its own layout. */
function commandOf(folder: string): string {
  const { bin } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {
    bin: Record<string, string>
  }
  return join(folder, bin['fd-broker']!)
}

/** What was built here. */
export const present: Version = {
  name: 'the present version',
  cli: [process.execPath, commandOf(ROOT)],
  program: file => [process.execPath, fileURLToPath(file)],
}

/**
 * A release of test/fixtures/releases, unpacked for the tests of this file: its own JavaScript, with the
 * addon and the dependencies of the present version. Call it where tests are collected.
 */
export class Release implements Version {
  readonly name: string
  readonly folder: string
  readonly cli: readonly string[]

  constructor(version: string) {
    const unpacked = mkdtempSync(join(tmpdir(), 'fdb-release-'))
    afterAll(() => rmSync(unpacked, { recursive: true, force: true }))
    const archive = join(ROOT, `test/fixtures/releases/fd-broker-${version}.tgz`)
    execFileSync('tar', ['-xzf', archive, '-C', unpacked])
    this.name = version
    this.folder = join(unpacked, 'package')
    symlinkSync(join(ROOT, 'node_modules'), join(this.folder, 'node_modules'))
    this.cli = this.#command(commandOf(this.folder))
  }

  program(file: URL): readonly string[] {
    const copy = join(this.folder, basename(file.pathname))
    cpSync(fileURLToPath(file), copy)
    return this.#command(copy)
  }

  #command(file: string): readonly string[] {
    const addon = this.has('0.3.0') ? ADDON : ADDON_BEFORE
    return ['/usr/bin/env', `FD_BROKER_ADDON=${addon}`, process.execPath, file]
  }

  /** Whether it is `version` or came after it. */
  has(version: string): boolean {
    return compare(this.name, version) >= 0
  }

  /** Whether its modules can be imported one by one: later ones are bundled. */
  get hasModules(): boolean {
    return existsSync(join(this.folder, 'dist/state/index.js'))
  }

  /** A module of the release, in this process; see {@link hasModules}. */
  // biome-ignore lint/suspicious/noExplicitAny: a release has no types here
  module(path: string): Promise<any> {
    process.env.FD_BROKER_ADDON ??= ADDON
    return import(/* @vite-ignore */ pathToFileURL(join(this.folder, 'dist', path)).href)
  }
}

function compare(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true })
}

/** What was released, the oldest first: users upgrade from each to the present version, and go back. */
export const RELEASES: readonly string[] = readdirSync(join(ROOT, 'test/fixtures/releases'))
  .flatMap(name => /^fd-broker-(.*)\.tgz$/.exec(name)?.[1] ?? [])
  .sort(compare)

/** Those; see {@link Release}. */
export const releases = (): Release[] => RELEASES.map(version => new Release(version))
