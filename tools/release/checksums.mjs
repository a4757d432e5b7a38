// @ts-check
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { sha256Of } from './tarball.mjs'

const NAME = 'SHA256SUMS'
/** The release notes, which are not a download, so that they have no checksum. */
export const NOTES = 'NOTES.md'

/**
 * Writes SHA256SUMS, for `sha256sum --check SHA256SUMS`, and returns its text.
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
