import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll } from 'vitest'
import { ADDON, commandOf, compareVersions, unpackRelease } from '../../bench/release.mjs'
import { perLane } from '../lanes/lane.js'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** A version of fd-broker that processes of a test can run. */
export interface Version {
  readonly name: string
  /** Starts the command line of this version, as unrelated processes are started. */
  readonly cli: readonly string[]
  /** Starts a program of test/fixtures, for which `fd-broker` is this version. */
  program(file: URL): readonly string[]
}

/** The version that was built here. */
export const present: Version = {
  name: 'the present version',
  cli: [process.execPath, commandOf(ROOT)],
  program: file => [process.execPath, fileURLToPath(file)],
}

/**
 * A release of test/fixtures/releases: its own JavaScript, with the addon and the dependencies of the present version. Call it where tests are
 * collected. The first test that uses it unpacks it, because Vitest calls `afterAll` only if one of the tests runs.
 */
export class Release implements Version {
  readonly name: string
  #folder: string | null = null

  constructor(version: string) {
    this.name = version
    afterAll(() => {
      if (this.#folder !== null) rmSync(dirname(this.#folder), { recursive: true, force: true })
      this.#folder = null
    })
  }

  get folder(): string {
    this.#folder ??= unpackRelease(this.name, mkdtempSync(join(tmpdir(), 'fdb-release-')))
    return this.#folder
  }

  get cli(): readonly string[] {
    return this.#command(commandOf(this.folder))
  }

  program(file: URL): readonly string[] {
    const copy = join(this.folder, basename(file.pathname))
    cpSync(fileURLToPath(file), copy)
    return this.#command(copy)
  }

  #command(file: string): readonly string[] {
    return ['/usr/bin/env', `FD_BROKER_ADDON=${ADDON}`, process.execPath, file]
  }
}

/** The kept releases, the oldest first: users upgrade from each to the present version, and go back. */
export const RELEASES: readonly string[] = readdirSync(join(ROOT, 'test/fixtures/releases'))
  .flatMap(name => /^fd-broker-(.*)\.tgz$/.exec(name)?.[1] ?? [])
  .sort(compareVersions)

/** The newest of those in the gate; all at night. See {@link Release}. */
export function releases(): Release[] {
  return RELEASES.slice(perLane(-1, 0)).map(version => new Release(version))
}
