import type * as crypto from 'node:crypto'
import type * as files from 'node:fs/promises'
import type http from 'node:http'
import { createRequire } from 'node:module'
import net from 'node:net'
import type tls from 'node:tls'

/** Modules that are loaded by the first call: most processes start sooner, and have less memory, without them. */

const load = createRequire(import.meta.url)

export const nodeCrypto = (): typeof crypto => process.getBuiltinModule('node:crypto')

export const nodeFiles = (): typeof files => process.getBuiltinModule('node:fs/promises')

/** Makes only the exports that are used: an `import` makes all, and Node 22 and 24 load a whole HTTP client for some of them (30 ms). */
export const nodeHttp = (): typeof http => process.getBuiltinModule('node:http')

export const nodeTls = (): typeof tls => process.getBuiltinModule('node:tls')

/** Takes more than a MiB. */
export const msgpackr = (): typeof import('msgpackr') => load('#msgpackr')

/** A configuration in JSON needs neither of these. */
export const yaml = (): typeof import('yaml') => load('#yaml')
export const jsYaml = (): Pick<typeof import('js-yaml'), 'CORE_SCHEMA' | 'load'> => load('#js-yaml')

/** As `net.isIPv6()`, which compiles its pattern when it is first called: 3 ms that most programs do without. */
export function isIPv6(text: string): boolean {
  return text === '::' || (text.includes(':') && net.isIPv6(text))
}
