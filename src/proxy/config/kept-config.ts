import { readFileSync, statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { CacheFile, type CacheKind } from '../../base/cache-file.js'
import { thisFile } from '../../base/lazy.js'
import { OWN_INSTANCE } from '../../base/own-instance.js'
import { DocumentPlace, isMap, Problems } from '../../checks/place.js'
import { documentOf, unreadable } from '../../config/document.js'
import { nameOfRoutes, nameRoutes } from '../routes/identity.js'
import { CheckedRoutes, type RouteRule } from '../routes/rule.js'
import { type RouteTarget, targetKey } from '../routes/target.js'
import { checkConfig, type ProxyConfig } from './schema.js'

const KIND: CacheKind<'routes'> = {
  mark: 'fd-broker config 2 ',
  stages: ['routes'],
  extension: '.config',
  most: 16,
  // Headers of a configuration may have passwords.
  secret: true,
}

/** A file in JSON of up to this size is parsed as fast as its cache is read. */
const SMALL_BYTES = 16 * 1024
const BRACE = 0x7b

interface Source {
  readonly bytes: Buffer
  /** The parsed document without its routes. */
  readonly rest: object
  readonly routes: readonly RouteRule[]
}

/**
 * Reads the configuration file of a proxy. If a process of the same release has kept what it has read of a file with the same bytes, the file is not
 * parsed again, nor are its routes checked. All other keys are checked at each read: they name files and folders.
 */
export class KeptConfig {
  readonly #file: string
  /** The file as it was parsed, until {@link keep} writes it. */
  #source: Source | null = null

  constructor(file: string) {
    this.#file = file
  }

  /** Reads the file in one turn of the event loop. Throws ERR_FDB_CONFIG. */
  read(): ProxyConfig {
    const bytes = this.#bytes()
    return (isWorthKeeping(bytes) ? this.#readKept(bytes) : null) ?? this.#parse(bytes)
  }

  /** As {@link read}, but parses the file and checks its routes in any case. */
  check(): ProxyConfig {
    return this.#parse(this.#bytes())
  }

  /** Lets the next process read the file faster. Never rejects. */
  async keep(): Promise<void> {
    const source = this.#source
    this.#source = null
    if (source === null) return
    try {
      const rest = JSON.stringify(source.rest)
      // YAML has numbers that JSON lacks.
      if (isDeepStrictEqual(JSON.parse(rest), source.rest))
        await this.#cache().writeParts(() => partsOf(source, rest), 'routes')
    } catch {
      // The next start takes longer.
    }
  }

  #bytes(): Buffer {
    try {
      return readFileSync(this.#file)
    } catch (error) {
      return unreadable(this.#file)(error)
    }
  }

  #parse(bytes: Buffer): ProxyConfig {
    let document: unknown
    const config = documentOf(bytes, this.#file, (value, place) => {
      document = value
      return checkConfig(value, place)
    })
    if (isWorthKeeping(bytes) && isMap(document)) {
      const { routes: _, ...rest } = document
      nameRoutes(config.routes, `${OWN_INSTANCE}-${parsed++}`)
      this.#source = { bytes, rest, routes: config.routes }
    }
    return config
  }

  /** Returns null if nothing is kept of a file with these bytes, and if the configuration is not valid now: then the errors need the places in the text. */
  #readKept(bytes: Buffer): ProxyConfig | null {
    try {
      const { data } = this.#cache().read() ?? {}
      return data === undefined ? null : configOf(data, bytes)
    } catch {
      return null
    }
  }

  #cache(): CacheFile<'routes'> {
    const program = thisFile()
    const { size, mtimeMs, ino, uid, mode } = statSync(program)
    const { version, versions } = process
    const facts = [resolve(this.#file), program, size, mtimeMs, ino, version, versions.unicode, versions.icu]
    return new CacheFile(
      {
        name: 'proxy',
        facts: JSON.stringify(facts),
        package: dirname(dirname(program)),
        owner: { uid, mode },
      },
      KIND,
    )
  }
}

function isWorthKeeping(bytes: Buffer): boolean {
  return bytes.length > SMALL_BYTES || bytes[0] !== BRACE
}

/** The number of files that this process has parsed. */
let parsed = 0

const NUMBER_BYTES = 4
/** How many targets are written once for all of their routes. */
const SHARED_TARGETS = 4_096
/** About the largest part: its checksum and its JSON block the event loop for less than a millisecond. */
const PART_BYTES = 256 * 1024

/**
 * The bytes of the file, after their number; then lines in JSON: the document without its routes, the name of the routes, and lists of routes, each as
 * host, path and target. A number in the place of a target is that of an earlier target.
 */
function* partsOf({ bytes, routes }: Source, rest: string): Generator<Buffer> {
  const head = Buffer.alloc(NUMBER_BYTES)
  head.writeUInt32LE(bytes.length)
  yield head
  for (let at = 0; at < bytes.length; at += PART_BYTES) yield bytes.subarray(at, at + PART_BYTES)
  yield Buffer.from(`${rest}\n${JSON.stringify(nameOfRoutes(routes))}`)
  const numbers = new Map<string, number>()
  let flat: (string | number | RouteTarget)[] = []
  let size = 0
  for (const { host, path, target } of routes) {
    const key = targetKey(target)
    const number = numbers.get(key)
    if (number === undefined && numbers.size < SHARED_TARGETS) numbers.set(key, numbers.size)
    flat.push(host, path, number ?? target)
    size += host.length + path.length + (number === undefined ? key.length : 0)
    if (size < PART_BYTES / 4) continue
    yield lineOf(flat)
    flat = []
    size = 0
  }
  if (flat.length > 0) yield lineOf(flat)
}

function lineOf(values: unknown[]): Buffer {
  return Buffer.from(`\n${JSON.stringify(values)}`)
}

/** Reverses {@link partsOf}. Returns null if the bytes are those of another file, or the document is not valid now. */
function configOf(data: Buffer, bytes: Buffer): ProxyConfig | null {
  const end = NUMBER_BYTES + data.readUInt32LE()
  if (!bytes.equals(data.subarray(NUMBER_BYTES, end))) return null
  const [rest = '', name = '', ...lines] = data.toString('utf8', end).split('\n')
  const routes = routesOf(lines)
  nameRoutes(routes, JSON.parse(name))
  const document: unknown = { ...JSON.parse(rest), routes: new CheckedRoutes(routes) }
  const problems = new Problems(0)
  const config = checkConfig(document, new DocumentPlace(problems))
  return config !== undefined && problems.count === 0 ? config : null
}

function routesOf(lines: readonly string[]): RouteRule[] {
  const targets: RouteTarget[] = []
  const routes: RouteRule[] = []
  for (const line of lines) {
    const flat = JSON.parse(line)
    for (let at = 0; at < flat.length; at += 3) {
      let target = flat[at + 2]
      if (typeof target === 'number') target = targets[target]!
      else if (targets.length < SHARED_TARGETS) targets.push(target)
      routes.push({ host: flat[at], path: flat[at + 1], target })
    }
  }
  return routes
}
