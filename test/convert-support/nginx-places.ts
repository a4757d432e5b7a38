/** Which lines of a configuration of nginx a request gets to: its server, and the locations that nginx chooses. */
import { basename } from 'node:path'
import type { SourceLine } from '../../src/convert/draft.js'
import { locationsFor } from '../../src/convert/nginx-location.js'
import { type Directive, parseNginx } from '../../src/convert/nginx-syntax.js'
import type { Asked, Listener } from './places.js'

const MAIN = 'nginx.conf'

/** A path as nginx compares it. */
export const readOf = (path: string) =>
  decodeURIComponent(path.replace(/\?.*/, '')).replaceAll(/\/+/g, '/').replaceAll('/./', '/')

/** A directive, with the blocks around it from outside. */
interface Placed {
  readonly directive: Directive
  readonly around: readonly Directive[]
}

/** The blocks that a request gets to. */
export interface Reached {
  readonly server: Directive
  readonly locations: readonly Directive[]
}

export class NginxPlaces {
  readonly #all: readonly Placed[]
  readonly #servers: readonly Directive[]

  constructor(text: string) {
    this.#all = placed(
      parseNginx(text, MAIN, () => []),
      [],
    )
    this.#servers = this.#all.filter(({ directive }) => directive.name === 'server').flatMap(serverIn)
  }

  /** Null if no server has the listener. */
  reached({ host, path, at }: Asked): Reached | null {
    const server = this.#serverOf(host, at)
    if (server === undefined) return null
    return { server, locations: locationsFor(server.block!, readOf(path))! }
  }

  /** Whether nginx comes by a line on the way to these blocks, also through a named location. */
  concerns(line: SourceLine, reached: Reached): boolean {
    const file = basename(line.file)
    return this.#all.some(
      ({ directive, around }) =>
        (file === MAIN
          ? directive.place === line.place
          : directive.name === 'include' && basename(directive.args[0]!) === file) &&
        this.#isOnTheWay(directive.name === 'location' ? [...around, directive] : around, reached),
    )
  }

  /** The server of a line; null if it is outside of all. */
  serverAround(line: SourceLine): Directive | null {
    const of = this.#all.find(
      ({ directive }) => directive.place === line.place && basename(line.file) === MAIN,
    )
    return of?.around.find(each => this.#servers.includes(each)) ?? null
  }

  #isOnTheWay(around: readonly Directive[], reached: Reached): boolean {
    const { server, locations } = reached
    return around.every(each => {
      if (each.name === 'server') return each === server
      if (each.name !== 'location') return true
      const name = each.args[0]!
      if (!name.startsWith('@')) return locations.includes(each)
      return [server, ...locations].some(one => (one.block ?? []).some(({ args }) => args.includes(name)))
    })
  }

  /** As nginx chooses: the exact name, then the longest that begins with `*`, then the default server. */
  #serverOf(host: string, at: Listener): Directive | undefined {
    const servers = this.#servers.filter(each => listensOf(each, at).length > 0)
    const names = namesOf(servers)
    const exact = names.get(host)
    const [wild] = [...names.keys()]
      .filter(name => name.startsWith('*') && host.endsWith(name.slice(1)))
      .sort((a, b) => b.length - a.length)
    const isDefault = (server: Directive) =>
      listensOf(server, at).some(({ args }) => args.includes('default_server'))
    return exact ?? names.get(wild ?? '') ?? servers.find(isDefault) ?? servers[0]
  }
}

const listensOf = ({ block }: Directive, at: Listener) =>
  block!.filter(
    ({ name, args }) => name === 'listen' && (args[0]!.endsWith(`:@${at}`) || !args[0]!.includes('@')),
  )

/** The server of each name: the first that has it. nginx ignores a `.b.test` of which one part has a server. */
function namesOf(servers: readonly Directive[]): Map<string, Directive> {
  const names = new Map<string, Directive>()
  const taken = new Set<string>()
  for (const server of servers)
    for (const { args } of server.block!.filter(({ name }) => name === 'server_name'))
      for (const name of args.map(each => each.toLowerCase())) {
        const hosts = name.startsWith('.') ? [name.slice(1), `*${name}`] : [name]
        if (hosts.every(each => !taken.has(each) && taken.add(each)))
          for (const each of hosts) names.set(each, server)
      }
  return names
}

const serverIn = ({ directive, around }: Placed) => (around.at(-1)?.name === 'http' ? [directive] : [])

function placed(block: readonly Directive[], around: readonly Directive[]): Placed[] {
  return block.flatMap(directive => [
    { directive, around },
    ...placed(directive.block ?? [], [...around, directive]),
  ])
}
