import { nodeCrypto } from '../base/lazy.js'
import { checkMade } from '../config/document.js'
import { FdbError } from '../errors.js'
import type { EtcdSource } from '../sources/etcd-source.js'
import type { SourceChange, SourceEntry } from '../sources/source.js'
import type { Command } from './command.js'
import { print } from './output.js'

interface StoreFlags {
  file: string
  to?: string
  config?: string
  expect?: string
  json?: true
}

/** After a failure the next host of the store is asked. */
const TRIES = 3
const DIGEST_CHARACTERS = 12
const { signal } = new AbortController()

/** Adds the commands for a store that several machines follow. `readRoutes` reads a list of routes. */
export function addStoreRoutes(routes: Command, readRoutes: (file: string) => Promise<unknown[]>): void {
  const add = (name: string) =>
    routes
      .command(name)
      .requiredOption('--file <file>', 'all routes that the store must have')
      .option('--to <url>', 'the store: etcd://HOST:2379/PREFIX; default: that of --config')
      .option('--config <file>', 'configuration of a proxy: its source has the user and TLS')
      .json()
  add('diff')
    .description('compare the routes of a file with those of a store')
    .examples('fd-broker routes diff --to etcd://10.0.0.5:2379/edge --file routes.yaml')
    .action(async (flags: StoreFlags) => {
      const { signs, digest } = await compare(flags, await readRoutes(flags.file))
      print(flags.json, { changes: signs, digest }, () => textOf(signs, `the store has ${digest}`))
    })
  add('apply')
    .description('give a store the routes of a file, in one transaction')
    .option('--expect <digest>', 'refuse unless the store has what diff has shown')
    .examples(
      'fd-broker routes apply --to etcd://10.0.0.5:2379/edge --file routes.yaml --expect 3f2a91c07b1d',
    )
    .action(async (flags: StoreFlags) => {
      const { changes, signs, digest, store, ...now } = await compare(flags, await readRoutes(flags.file))
      if (flags.expect !== undefined && flags.expect !== digest)
        throw new FdbError('ERR_FDB_SOURCE', `the store has moved on: it has ${digest}, not ${flags.expect}`)
      if (changes.length > 0) await store.change(changes, now, signal)
      print(flags.json, { changes: signs }, () => textOf(signs, 'applied'))
    })
}

/** Computes what gives the store the routes, and no others. */
async function compare({ file, to, config }: StoreFlags, routes: unknown[]) {
  const { readConfig } = await import('../proxy/index.js')
  const { source: check } = await import('../proxy/config/source.js')
  const { routeEntries, sameRoute } = await import('../proxy/source/entry.js')
  const { etcdOf } = await import('../proxy/source/sourced-config.js')
  const own = config === undefined ? null : (await readConfig(config)).source
  const url = to ?? own?.url
  if (url === undefined)
    throw new FdbError('ERR_FDB_OPTION', 'which store? Give --to, or --config with a source')
  const below = checkMade({ ...own, url: `${url.replace(/\/+$/, '')}/routes/` }, check)
  const store = below && etcdOf(below)
  if (store === null) throw new FdbError('ERR_FDB_OPTION', `${url} cannot be changed: only etcd can`)
  const wanted = new Map(of(file, () => routeEntries(routes)).map(({ key, value }) => [key, value]))
  const { all, revision } = await contentsOf(store)
  const present = new Map(all.map(({ key, value }) => [key, value]))
  const changes: SourceChange[] = []
  for (const key of [...new Set([...present.keys(), ...wanted.keys()])].sort()) {
    const [before, value = null] = [present.get(key), wanted.get(key)]
    if (before === undefined || value === null || !sameRoute(key, before, value)) changes.push({ key, value })
  }
  const signs = changes.map(({ key, value }) => ({
    sign: value === null ? '-' : present.has(key) ? '~' : '+',
    key,
  }))
  return { changes, signs, digest: digestOf(all), store, revision, count: wanted.size }
}

/** Names the file in each mistake that `check` finds in it. */
function of<T>(file: string, check: () => T): T {
  try {
    return check()
  } catch (error) {
    if (!FdbError.is(error) || error.code !== 'ERR_FDB_CONFIG') throw error
    const name = file === '-' ? 'standard input' : file
    const { code, details } = error
    throw new FdbError(code, error.message.replace(/^/gm, `${name}: `), {
      details: { ...details, file: name },
    })
  }
}

async function contentsOf(store: EtcdSource): Promise<{ all: readonly SourceEntry[]; revision: string }> {
  for (let tries = TRIES; ; tries--) {
    try {
      return await store.contents(signal)
    } catch (error) {
      if (tries === 1) throw error
    }
  }
}

/** Names the contents of a store, also if a route was removed, which no revision of another route shows. */
function digestOf(all: readonly SourceEntry[]): string {
  const hash = nodeCrypto().createHash('sha256')
  for (const { key, value } of all) hash.update(`${key}\0${value.length}\0`).update(value)
  return hash.digest('hex').slice(0, DIGEST_CHARACTERS)
}

function textOf(signs: readonly { readonly sign: string; readonly key: string }[], end: string): string {
  const lines = signs.map(({ sign, key }) => `${sign} ${key}\n`)
  return `${lines.join('')}${signs.length === 0 ? 'no differences' : `${signs.length} changes`}; ${end}\n`
}
