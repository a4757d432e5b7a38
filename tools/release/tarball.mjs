// @ts-check
// The tarball of a release. Packed once: the other stages test, describe and publish the same bytes.
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { outputOf } from './run.mjs'

/** Returns the SHA-256 of a file in hexadecimal. @param {string} file @returns {string} */
export const sha256Of = file => createHash('sha256').update(readFileSync(file)).digest('hex')

/**
 * Packs the last build, without building again.
 *
 * @param {string} root
 * @param {string} folder for the tarball; all its files are removed before
 * @returns {{ file: string, files: number, bytes: number, unpacked: number }}
 */
export function pack(root, folder) {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', folder]
  const answer = JSON.parse(outputOf('npm', args, root))
  // npm 12 prints an object with the package's name as key.
  const [packed] = Array.isArray(answer) ? answer : Object.values(answer)
  return {
    file: join(folder, packed.filename),
    files: packed.entryCount,
    bytes: packed.size,
    unpacked: packed.unpackedSize,
  }
}

/**
 * Returns the tarball that an earlier stage has packed, perhaps on another machine.
 *
 * @param {string} folder
 * @param {{ name: string, version: string }} manifest
 * @param {string | undefined} expected its SHA-256; undefined for any
 */
export function packed(folder, { name, version }, expected) {
  const file = join(folder, `${name}-${version}.tgz`)
  if (!existsSync(file)) throw new Error(`there is no ${file}: run the stage "pack" first`)
  const sha256 = sha256Of(file)
  if (expected !== undefined && sha256 !== expected)
    throw new Error(`${file} is not the tarball that was packed: its SHA-256 is ${sha256}, not ${expected}`)
  return { file, sha256 }
}
