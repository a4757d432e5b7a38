import type * as crypto from 'node:crypto'
import type * as files from 'node:fs/promises'
import type http from 'node:http'
import net from 'node:net'
import type tls from 'node:tls'
import { requireAs, thisFile } from './this-file.js'

/** Functions that load a module on first use: most processes start faster and use less memory without the module. */

/** Key of a `require` for the packages: dist/lazy.cjs sets it in an application's bundle, where package names cannot be resolved. */
const BUNDLED = Symbol.for('fd-broker.lazy')

function load(name: string): never {
  const { [BUNDLED]: bundled } = globalThis as { [BUNDLED]?: NodeJS.Require }
  if (bundled !== undefined) return bundled(name) as never
  const require = requireAs(thisFile())
  try {
    return require(name) as never
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND') throw error
    // In an application's bundle the name has no meaning, but the package's file may be next to the bundle.
    return require(`./${name.slice(1)}.cjs`) as never
  }
}

export const nodeCrypto = (): typeof crypto => process.getBuiltinModule('node:crypto')

export const nodeFiles = (): typeof files => process.getBuiltinModule('node:fs/promises')

/** An `import` would evaluate all exports of `node:http`; for some of them Node 22 and 24 load a whole HTTP client (30 ms). */
export const nodeHttp = (): typeof http => process.getBuiltinModule('node:http')

export const nodeTls = (): typeof tls => process.getBuiltinModule('node:tls')

/** The package uses more than 1 MiB of memory. */
export const msgpackr = (): typeof import('msgpackr') => load('#msgpackr')

/** A configuration in JSON does not need this package. */
export const yaml = (): typeof import('yaml') => load('#yaml')
export const jsYaml = (): Pick<typeof import('js-yaml'), 'CORE_SCHEMA' | 'load'> => load('#js-yaml')

/** Like `net.isIPv6()`, but avoids the pattern that Node compiles at the first call (3 ms) for most texts that are no IPv6 address. */
export function isIPv6(text: string): boolean {
  return text === '::' || (text.includes(':') && net.isIPv6(text))
}
