// @ts-check
// Releases of test/fixtures/releases, to be run beside what was built here: their own JavaScript, with the addon and the dependencies of
// the present version. A folder in place of a version: another clone that is built, which runs as it is.
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
/** That of the present version. */
export const ADDON = process.env.FD_BROKER_ADDON ?? join(ROOT, 'build/Release/fd_broker.node')

/** @param {string} a @param {string} b */
export const compareVersions = (a, b) => a.localeCompare(b, 'en', { numeric: true })

/**
 * @param {string} version
 * @param {string} into an empty folder
 * @returns {string} where its package.json is; FD_BROKER_ADDON must be {@link ADDON} for it
 */
export function unpackRelease(version, into) {
  const archive = join(ROOT, `test/fixtures/releases/fd-broker-${version}.tgz`)
  execFileSync('tar', ['-xzf', archive, '-C', into])
  const folder = join(into, 'package')
  symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
  return folder
}

/** The file of a version's command: each release has its own layout. @param {string} folder where its package.json is */
export function commandOf(folder) {
  const { bin } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  return join(folder, String(bin['fd-broker']))
}

/** @param {string} version */
const isFolder = version => version.includes('/')

/** The command of a release, for any node to run. @param {string} version @param {string} into an empty folder */
export function releaseCommand(version, into) {
  if (isFolder(version)) return commandOf(resolve(version))
  const folder = unpackRelease(version, into)
  return withAddon(folder, commandOf(folder))
}

/** A program for which `fd-broker` is that release, for any node to run. @param {string} version @param {string} into an empty folder @param {string} program */
export function releaseProgram(version, into, program) {
  if (isFolder(version)) {
    const modules = join(into, 'node_modules')
    mkdirSync(modules)
    symlinkSync(resolve(version), join(modules, 'fd-broker'))
    const copy = join(into, basename(program))
    copyFileSync(program, copy)
    return copy
  }
  const folder = unpackRelease(version, into)
  const copy = join(folder, basename(program))
  copyFileSync(program, copy)
  return withAddon(folder, copy)
}

/** @param {string} folder @param {string} file */
function withAddon(folder, file) {
  const started = join(folder, 'started.cjs')
  writeFileSync(
    started,
    `process.env.FD_BROKER_ADDON = ${JSON.stringify(ADDON)}\nimport(${JSON.stringify(file)})\n`,
  )
  return started
}
