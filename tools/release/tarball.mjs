// @ts-check
// The tarball of a release: it is made once, and what is tested, described and published are its bytes.
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { outputOf } from './run.mjs'

/** @param {string} file @returns {string} hexadecimal */
export const sha256Of = file => createHash('sha256').update(readFileSync(file)).digest('hex')

/**
 * Packs what was built, without building anew.
 *
 * @param {string} root
 * @param {string} folder emptied before
 * @returns {{ file: string, files: number, bytes: number, unpacked: number }}
 */
export function pack(root, folder) {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', folder]
  const answer = JSON.parse(outputOf('npm', args, root))
  // npm 12 answers by the package's name.
  const [packed] = Array.isArray(answer) ? answer : Object.values(answer)
  return {
    file: join(folder, packed.filename),
    files: packed.entryCount,
    bytes: packed.size,
    unpacked: packed.unpackedSize,
  }
}

/**
 * The tarball that was packed before, perhaps on another machine.
 *
 * @param {string} folder
 * @param {{ name: string, version: string }} manifest
 * @param {string | undefined} expected its SHA-256; undefined: whatever lies there
 */
export function packed(folder, { name, version }, expected) {
  const file = join(folder, `${name}-${version}.tgz`)
  if (!existsSync(file)) throw new Error(`there is no ${file}: run the stage "pack" first`)
  const sha256 = sha256Of(file)
  if (expected !== undefined && sha256 !== expected)
    throw new Error(`${file} is not what was packed: its SHA-256 is ${sha256}, not ${expected}`)
  return { file, sha256 }
}
