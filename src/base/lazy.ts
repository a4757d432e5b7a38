import type * as crypto from 'node:crypto'
import type dgram from 'node:dgram'
import type * as files from 'node:fs/promises'
import type http from 'node:http'
import type http2 from 'node:http2'
import type inspector from 'node:inspector'
import net from 'node:net'
import { isAbsolute } from 'node:path'
import type tls from 'node:tls'
import { fileURLToPath } from 'node:url'
import { underUsualFlags } from './server-stage.js'

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

export const nodeDgram = (): typeof dgram => process.getBuiltinModule('node:dgram')

export const nodeFiles = (): typeof files => process.getBuiltinModule('node:fs/promises')

/** An `import` would evaluate all exports of `node:http`; for some of them Node 22 and 24 load a whole HTTP client (30 ms). */
export const nodeHttp = (): typeof http => process.getBuiltinModule('node:http')

/** Loading takes 9 ms, and 60 ms under changed flags of V8. */
export const nodeHttp2 = (): typeof http2 => underUsualFlags(() => process.getBuiltinModule('node:http2'))

export const nodeInspector = (): typeof inspector => process.getBuiltinModule('node:inspector')

export const nodeTls = (): typeof tls => process.getBuiltinModule('node:tls')

/** The package uses more than 1 MiB of memory. */
export const msgpackr = (): typeof import('msgpackr') => load('#msgpackr')

type JsYaml = Pick<
  typeof import('js-yaml'),
  | 'constructFromEvents'
  | 'CORE_SCHEMA'
  | 'EVENT_ID'
  | 'getScalarValue'
  | 'parseEvents'
  | 'SCALAR_STYLE'
  | 'YAMLException'
>

/** A configuration in JSON does not need this package. */
export const jsYaml = (): JsYaml => load('#js-yaml')

export interface ExposedValue {
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
  /** Default: the name of the metric. */
  readonly metricName?: string
}

export interface ExposedMetric {
  /** For OpenMetrics the registry cuts off `_total`. */
  name: string
  readonly help: string
  readonly type: string
  readonly values: readonly ExposedValue[]
  get(): ExposedMetric
}

/** The part of `prom-client` that writes metrics as text. */
interface PromClient {
  readonly Registry: new (
    contentType: string,
  ) => {
    registerMetric(metric: ExposedMetric): void
    metrics(): Promise<string>
  }
}

/** Only a process that is asked for metrics needs this package. */
export const promClient = (): PromClient => load('#prom-client')

/** Like `net.isIPv6()`, but avoids the pattern that Node compiles at the first call (3 ms) for most texts that are no IPv6 address. */
export function isIPv6(text: string): boolean {
  return text === '::' || (text.includes(':') && net.isIPv6(text))
}

/** Whether the text is an IP address; see {@link isIPv6}. */
export function isAddress(text: string): boolean {
  return net.isIPv4(text) || isIPv6(text)
}

/**
 * Returns the path of the file that contains the caller: a module, or the bundle of an application. (In a CommonJS bundle `import.meta` is
 * empty, or has the folder of the build machine.) If V8 does not report the file, returns the program's path.
 */
export function thisFile(): string {
  const { prepareStackTrace, stackTraceLimit } = Error
  let stack: unknown
  try {
    Error.stackTraceLimit = 2
    Error.prepareStackTrace = (_error, sites) => sites.map(site => site.getFileName())
    stack = new Error().stack
  } catch {
    // The program has frozen Error (--frozen-intrinsics).
    stack = new Error().stack
  }
  try {
    Object.assign(Error, { stackTraceLimit, prepareStackTrace })
  } catch {
    // A frozen Error has them still.
  }
  const paths = callFiles(stack).map(file => (file?.startsWith('file:') ? fileURLToPath(file) : file))
  return [paths[1], paths[0], process.argv[1]].find(path => path && isAbsolute(path)) ?? process.execPath
}

/** The files of the calls of a stack, which is a text unless {@link thisFile} has set another form. */
function callFiles(stack: unknown): readonly (string | null | undefined)[] {
  if (Array.isArray(stack)) return stack
  const calls = String(stack).split('\n    at ').slice(1)
  return calls.map(call => /((?:file:\/)?\/.*):\d+:\d+\)?$/.exec(call)?.[1])
}

interface PnpApi {
  resolveVirtual?(path: string): string | null
}

/**
 * Returns the path by which another process opens a file of this package. With Yarn Plug'n'Play this process may see the file in a virtual folder, which
 * exists only for processes that have loaded `.pnp.cjs`.
 */
export function pathForOthers(file: string): string {
  if (process.versions.pnp === undefined) return file
  const { findPnpApi } = process.getBuiltinModule('node:module') as {
    findPnpApi?(path: string): PnpApi | null
  }
  return findPnpApi?.(file)?.resolveVirtual?.(file) ?? file
}

/** Returns a `require` that resolves names as in `file`. Bundlers do not follow its calls. */
export function requireAs(file: string): NodeJS.Require {
  return process.getBuiltinModule('node:module').createRequire(file)
}
