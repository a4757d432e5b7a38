// @ts-check
// What the compiler is told: sources, macros and warnings are those of binding.gyp, so that both builds are of the same code.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

/**
 * The addon's target in binding.gyp; paths are relative to the root.
 *
 * @param {string} root
 * @returns {{ sources: string[], defines: string[], cflags: string[] }}
 */
function addonOf(root) {
  return JSON.parse(readFileSync(join(root, 'binding.gyp'), 'utf8')).targets[0]
}

/** What node-gyp adds by itself (common.gypi, addon.gypi), and what makes overruns end the process instead of going on. */
const COMPILING = [
  '-D_FILE_OFFSET_BITS=64',
  '-DNODE_GYP_MODULE_NAME=fd_broker',
  '-DBUILDING_NODE_EXTENSION',
  '-fPIC',
  // All six are in the package. What is computed here (sums, scans) takes a tenth longer than with -O2, and most of the rest is system calls.
  '-Os',
  '-g0',
  '-fstack-protector-strong',
  '-D_FORTIFY_SOURCE=2',
  // Zig's own default; it would link a runtime for it.
  '-fno-sanitize=undefined',
]

/** Addresses that the loader has filled in are read-only from then on, the stack is no code, and the id is of the content. */
const ELF = ['-shared', '-Wl,-z,relro,-z,now', '-Wl,-z,noexecstack', '-Wl,--build-id=sha1', '-s']
/** CMSG_NXTHDR of musl's headers compares so. */
const MUSL = ['-Wno-sign-compare']
/** The functions of Node are those of the program that loads it. The name in it would be the path to which it is written. */
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
