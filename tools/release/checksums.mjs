// @ts-check
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { sha256Of } from './tarball.mjs'

const NAME = 'SHA256SUMS'
/** What is read, and not handed out. */
export const NOTES = 'NOTES.md'

/**
 * Writes what `sha256sum --check SHA256SUMS` reads.
 *
 * @param {string} folder
 * @returns {string}
 */
export function writeChecksums(folder) {
  const names = readdirSync(folder)
    .filter(name => name !== NAME && name !== NOTES)
    .sort()
  const text = names.map(name => `${sha256Of(join(folder, name))}  ${name}\n`).join('')
  writeFileSync(join(folder, NAME), text)
  return text
}
