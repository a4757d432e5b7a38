// @ts-check
// Arguments for the compiler. Sources, macros and warnings come from binding.gyp, so that both builds compile the same code.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

/**
 * Returns the addon's target in binding.gyp; its paths are relative to the root.
 *
 * @param {string} root
 * @returns {{ sources: string[], defines: string[], cflags: string[] }}
 */
function addonOf(root) {
  return JSON.parse(readFileSync(join(root, 'binding.gyp'), 'utf8')).targets[0]
}

/** The options that node-gyp adds (common.gypi, addon.gypi), and options that end the process at a buffer overrun. */
const COMPILING = [
  '-D_FILE_OFFSET_BITS=64',
  '-DNODE_GYP_MODULE_NAME=fd_broker',
  '-DBUILDING_NODE_EXTENSION',
  '-fPIC',
  // Small, because the package has six addons. Checksums and scans take 10 % longer than with -O2, but most functions only make system calls.
  '-Os',
  '-g0',
  '-fstack-protector-strong',
  '-D_FORTIFY_SOURCE=2',
  // By default Zig links a runtime for this sanitizer.
  '-fno-sanitize=undefined',
]

/** Makes the loader's tables read-only after loading, the stack not executable, and the build id a hash of the content. */
const ELF = [
  '-shared',
  '-Wl,-z,relro,-z,now',
  '-Wl,-z,noexecstack',
  '-Wl,-z,nodelete',
  '-Wl,--build-id=sha1',
  '-s',
]
/** The macro CMSG_NXTHDR of musl compares signed with unsigned values. */
const MUSL = ['-Wno-sign-compare']
/** Resolves Node's functions when Node loads the addon. Sets the install name, which would otherwise be the output path. */
const MACH_O = ['-shared', '-undefined', 'dynamic_lookup', '-Wl,-install_name,fd-broker.node', '-s']

/**
 * @param {string} root
 * @param {import('./targets.mjs').Target} target
 * @param {string} headers a folder with include/node
 * @param {string} output
 */
export function compilerArguments(root, target, headers, output) {
  const { sources, defines, cflags } = addonOf(root)
  return [
    ...['-target', target.triple],
    ...defines.map(define => `-D${define}`),
    ...cflags,
    ...(target.triple.endsWith('-musl') ? MUSL : []),
    ...COMPILING,
    ...['-isystem', join(headers, 'include', 'node')],
    ...(target.triple.includes('-macos') ? MACH_O : ELF),
    ...sources,
    ...['-o', output],
  ]
}
