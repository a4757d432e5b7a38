import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { afterAll } from 'vitest'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const ADDON = process.env.FD_BROKER_ADDON ?? join(ROOT, 'build/Release/fd_broker.node')

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
    return ['/usr/bin/env', `FD_BROKER_ADDON=${ADDON}`, process.execPath, file]
  }

  /** A module of the release, in this process. */
  // biome-ignore lint/suspicious/noExplicitAny: a release has no types here
  module(path: string): Promise<any> {
    process.env.FD_BROKER_ADDON ??= ADDON
    return import(/* @vite-ignore */ pathToFileURL(join(this.folder, 'dist', path)).href)
  }
}

/** The last release, from which users upgrade to the present version, and to which they go back. */
export const PREVIOUS = '0.1.0'
