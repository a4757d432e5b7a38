import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { afterAll } from 'vitest'
import { ADDON, commandOf, compareVersions, unpackRelease } from '../../bench/release.mjs'
import { perLane } from '../lanes/lane.js'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** A version of fd-broker that processes of a test can run. */
export interface Version {
  readonly name: string
  /** What starts its command line, as unrelated processes are started. */
  readonly cli: readonly string[]
  /** What starts a program of test/fixtures, for which `fd-broker` is this version. */
  program(file: URL): readonly string[]
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
  readonly #addon: string

  constructor(version: string) {
    const unpacked = mkdtempSync(join(tmpdir(), 'fdb-release-'))
    afterAll(() => rmSync(unpacked, { recursive: true, force: true }))
    const { folder, addon } = unpackRelease(version, unpacked)
    this.name = version
    this.folder = folder
    this.#addon = addon
    this.cli = this.#command(commandOf(this.folder))
  }

  program(file: URL): readonly string[] {
    const copy = join(this.folder, basename(file.pathname))
    cpSync(fileURLToPath(file), copy)
    return this.#command(copy)
  }

  #command(file: string): readonly string[] {
    return ['/usr/bin/env', `FD_BROKER_ADDON=${this.#addon}`, process.execPath, file]
  }

  /** Whether it is `version` or came after it. */
  has(version: string): boolean {
    return compareVersions(this.name, version) >= 0
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

/** What was released, the oldest first: users upgrade from each to the present version, and go back. */
export const RELEASES: readonly string[] = readdirSync(join(ROOT, 'test/fixtures/releases'))
  .flatMap(name => /^fd-broker-(.*)\.tgz$/.exec(name)?.[1] ?? [])
  .sort(compareVersions)

/** The newest of those, or of those before one, in the gate; all at night. See {@link Release}. */
export function releases(before?: string): Release[] {
  const there = RELEASES.filter(version => before === undefined || compareVersions(version, before) < 0)
  return there.slice(perLane(-1, 0)).map(version => new Release(version))
}
