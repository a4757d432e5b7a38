// @ts-check
// `prepack`: fails if an addon in prebuilds/, which goes into the tarball, is older than the sources. Warns if there is none: the
// package then needs FD_BROKER_ADDON.
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { TARGETS } from './targets.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const made = TARGETS.map(({ file }) => join(root, 'prebuilds', file)).filter(file => existsSync(file))
const sources = ['binding.gyp', ...readdirSync(join(root, 'native')).map(name => join('native', name))]

const oldest = Math.min(...made.map(file => statSync(file).mtimeMs))
const newer = sources.filter(source => statSync(join(root, source)).mtimeMs > oldest)
if (newer.length > 0) {
  console.error(
    `prepack: addons in prebuilds/ are older than ${newer.join(', ')}: run npm run prebuilds, or remove prebuilds/ to pack without them`,
  )
  process.exitCode = 1
}
if (made.length === 0)
  console.error(
    'prepack: this tarball has no addon, so the installed package cannot be loaded: run npm run prebuilds first, or install this folder (npm install PATH), or name an addon in FD_BROKER_ADDON',
  )
