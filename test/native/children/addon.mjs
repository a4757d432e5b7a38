// The addon, for plain node scripts: the one of FD_BROKER_ADDON or the one that was built.
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const require = createRequire(import.meta.url)
const root = fileURLToPath(new URL('../../..', import.meta.url))

export const native = process.env.FD_BROKER_ADDON
  ? require(process.env.FD_BROKER_ADDON)
  : require('node-gyp-build')(root)
