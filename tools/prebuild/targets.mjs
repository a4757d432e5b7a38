// @ts-check
/**
 * A platform for which the package has an addon.
 *
 * @typedef {object} Target
 * @property {string} name for the command line
 * @property {string} triple for the compiler: processor, system and its version, C library and its version
 * @property {string} file path below prebuilds/, where src/kernel/addon.ts finds it
 */

/** A glibc of 2012. Systems on which a supported Node runs have newer ones. */
const GLIBC = '2.17'
/** The macOS of binding.gyp (MACOSX_DEPLOYMENT_TARGET). */
const MACOS = '11.0'

/** @type {readonly Target[]} */
export const TARGETS = [
  { name: 'linux-x64-glibc', triple: `x86_64-linux-gnu.${GLIBC}`, file: 'linux-x64/fd-broker.glibc.node' },
  { name: 'linux-x64-musl', triple: 'x86_64-linux-musl', file: 'linux-x64/fd-broker.musl.node' },
  {
    name: 'linux-arm64-glibc',
    triple: `aarch64-linux-gnu.${GLIBC}`,
    file: 'linux-arm64/fd-broker.glibc.node',
  },
  { name: 'linux-arm64-musl', triple: 'aarch64-linux-musl', file: 'linux-arm64/fd-broker.musl.node' },
  { name: 'darwin-x64', triple: `x86_64-macos.${MACOS}`, file: 'darwin-x64/fd-broker.node' },
  { name: 'darwin-arm64', triple: `aarch64-macos.${MACOS}`, file: 'darwin-arm64/fd-broker.node' },
]
