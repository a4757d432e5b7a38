import type * as crypto from 'node:crypto'
import type * as files from 'node:fs/promises'
import type http from 'node:http'
import net from 'node:net'
import type tls from 'node:tls'
import { requireAs, thisFile } from './this-file.js'

/** Modules that are loaded on first use: most processes start faster and use less memory without them. */

/** Set in the bundle of an application, where package names cannot be resolved. */
const BUNDLED = Symbol.for('fd-broker.lazy')

function load(name: string): never {
  const { [BUNDLED]: bundled } = globalThis as { [BUNDLED]?: NodeJS.Require }
  if (bundled !== undefined) return bundled(name) as never
  const require = requireAs(thisFile())
  try {
    return require(name) as never
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND') throw error
    // A bundler did not resolve the name: the file may be next to the bundle.
    return require(`./${name.slice(1)}.cjs`) as never
  }
}

export const nodeCrypto = (): typeof crypto => process.getBuiltinModule('node:crypto')

export const nodeFiles = (): typeof files => process.getBuiltinModule('node:fs/promises')

/** An `import` would evaluate all exports, and Node 22 and 24 load a whole HTTP client for some of them (30 ms). */
export const nodeHttp = (): typeof http => process.getBuiltinModule('node:http')

export const nodeTls = (): typeof tls => process.getBuiltinModule('node:tls')

/** Takes more than 1 MiB of memory. */
export const msgpackr = (): typeof import('msgpackr') => load('#msgpackr')

/** Not needed for a configuration in JSON. */
export const yaml = (): typeof import('yaml') => load('#yaml')
export const jsYaml = (): Pick<typeof import('js-yaml'), 'CORE_SCHEMA' | 'load'> => load('#js-yaml')

/** As `net.isIPv6()`, which compiles its pattern on first use (3 ms): most programs never need it. */
export function isIPv6(text: string): boolean {
  return text === '::' || (text.includes(':') && net.isIPv6(text))
}
