// @ts-check
// `prepack`: addons that lie in prebuilds/ go into the tarball, so they must be of the present sources. None at all is
// no fault here (a checkout packs without them to try it); a release makes them.
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
