import { isMap, shortJson } from '../../checks/place.js'
import { InvalidValue } from '../../checks/values.js'
import { FdbError, type Logger, type Section } from '../../index.js'
import { getIfReadable } from '../entries/difference.js'
import { type Origin, Overlay, overlayKey, parseOverlayKey } from '../entries/overlay.js'
import { ofOneKind, upstreamAddress } from '../upstreams/address.js'
import { MOST_SERVERS, MOST_WEIGHT } from '../upstreams/shape.js'
import type { ServerOverride, ServerState } from '../upstreams/upstream.js'
import type { Upstreams } from '../upstreams/upstreams.js'
import { parseServerName, type ServerMessage, serverMessage, serverName } from './section.js'

export const SERVER_CHANGES = ['add', 'remove', 'drain', 'undrain', 'weight'] as const
export type ServerChangeKind = (typeof SERVER_CHANGES)[number]

/** A change of one server, as `fd-broker servers` sends it. */
export interface ServerRequest {
  change: ServerChangeKind
  upstream: string
  /** As in the configuration file. */
  server: string
  /** For `add` and `weight`; `weight` without it returns to the file's weight. */
  weight?: number | undefined
  /** For `add`: as a backup server. */
  backup?: boolean | undefined
}

export interface ServerReply {
  upstream: string
  server: string
  outcome: 'changed' | 'unchanged'
  /** How many servers of the upstream are not drained. */
  used: number
}

export interface ListedServer extends Pick<ServerState, 'server' | 'weight' | 'backup' | 'triedInSeconds'> {
  upstream: string
  /** `runtime`: the configuration file lacks the server. */
  origin: Origin
  /** `unused`: the server was changed at run time, and its upstream has it no longer. */
  state: ServerState['state'] | 'unused'
  /** Null without active checks. */
  check: ServerState['verdict']
  /** When the server was changed at run time, in milliseconds since 1970; null: it was not. */
  changed: number | null
}

export interface LiveServersOptions {
  readonly section: Section<ServerMessage>
  readonly generation: number
  readonly upstreams: Upstreams
  readonly logger: Logger
  /** Called after the servers of an upstream have changed. */
  readonly changed: () => void
}

const NO_CHANGE = { added: false, drained: false, weight: 0, backup: false }

/** The operators' changes of servers. A change overrides the configuration file until it is removed, also in the next version. */
export class LiveServers extends Overlay<ServerMessage> {
  readonly #upstreams: Upstreams
  /** The changes in force: of each upstream, by server. */
  readonly #overrides = new Map<string, Map<string, ServerOverride>>()
  readonly #unsubscribe: () => void

  constructor({ section, generation, upstreams, logger, changed }: LiveServersOptions) {
    super(section, generation, logger)
    this.#upstreams = upstreams
    this.#applyAll()
    this.#unsubscribe = section.onChange(({ op, key }) => {
      if (op === 'clear') this.#applyAll()
      else {
        const upstream = this.#read(key)
        if (upstream === null) return
        this.#apply(upstream)
      }
      changed()
    })
  }

  /**
   * @param given untrusted input: a {@link ServerRequest}
   * @throws ERR_FDB_SERVERS; or as the state's `put`
   */
  changeServer(given: unknown, gone?: AbortSignal): Promise<ServerReply> {
    return this.change(async () => {
      const { change, upstream, server, weight, backup } = readRequest(given)
      const key = overlayKey('runtime', serverName(upstream, server))
      const stored = getIfReadable(this.section, key)
      const before = { ...NO_CHANGE, ...(stored && overrideFields(stored)) }
      const present = this.#find(upstream, server)
      const isUndo =
        change === 'remove' || change === 'undrain' || (change === 'weight' && weight === undefined)
      if (change === 'add') this.#refuseAddition(upstream, server)
      else if (present === undefined && !(isUndo && stored !== undefined))
        throw wrong(`${upstream} has no server ${server}: see "fd-broker servers list"`)
      if (change === 'remove' && !before.added && present !== undefined)
        throw wrong(`${server} comes from the configuration file: drain it, or change the file and reload it`)
      const after = changed(before, change, weight, backup)
      // Without its server, nothing is left to override.
      const isEmpty = (!after.added && !present?.configured) || isEqual(after, NO_CHANGE)
      if (isEqual(after, before) && !(isEmpty && stored !== undefined))
        return this.#reply(upstream, server, 'unchanged')
      if (isEmpty) await this.section.delete(key)
      else {
        await this.section.put(key, serverMessage(after, this.stamp, stored))
      }
      // Reading the size notifies the listeners of this turn's changes, so that the change is in force.
      void this.section.size
      return this.#reply(upstream, server, 'changed')
    }, gone)
  }

  list(): ListedServer[] {
    const listed: ListedServer[] = []
    const changes = new Map<string, number>()
    for (const { name, stored } of this.#entries()) changes.set(name, stored.created)
    for (const upstream of this.#upstreams.names)
      for (const {
        server,
        configured,
        weight,
        backup,
        state,
        triedInSeconds,
        verdict,
      } of this.#upstreams.get(upstream).servers) {
        const name = serverName(upstream, server)
        const origin = configured ? 'file' : 'runtime'
        const created = changes.get(name) ?? null
        changes.delete(name)
        listed.push({
          upstream,
          server,
          origin,
          weight,
          backup,
          state,
          triedInSeconds,
          check: verdict,
          changed: created,
        })
      }
    for (const [name, changed] of changes)
      listed.push({
        ...parseServerName(name),
        origin: 'runtime',
        weight: 0,
        backup: false,
        state: 'unused',
        triedInSeconds: null,
        check: null,
        changed,
      })
    return listed
  }

  /** Logs the changes that override the configuration file, and those of servers that it lacks. */
  report(): void {
    const [overriding, unused]: [string[], string[]] = [[], []]
    for (const { name } of this.#entries()) {
      const { upstream, server } = parseServerName(name)
      const isUsed = this.#find(upstream, server) !== undefined
      if (isUsed) overriding.push(name)
      else unused.push(name)
    }
    this.warnNamed(
      'servers',
      overriding,
      'changes of servers made at run time override the file (to see them: fd-broker servers list)',
    )
    this.warnNamed(
      'servers',
      unused,
      'changes of servers made at run time are not used: the file lacks the servers',
    )
  }

  stop(): void {
    this.#unsubscribe()
  }

  *#entries(): Generator<{ name: string; stored: ServerMessage }> {
    for (const key of this.section.keys()) {
      const id = parseOverlayKey(key)
      const stored = id?.origin === 'runtime' ? getIfReadable(this.section, key) : undefined
      if (id && stored) yield { name: id.name, stored }
    }
  }

  #find(upstream: string, server: string): ServerState | undefined {
    if (!this.#upstreams.names.has(upstream)) return undefined
    return this.#upstreams.get(upstream).servers.find(each => each.server === server)
  }

  #refuseAddition(upstream: string, server: string): void {
    const address = upstreamAddress(server)
    if (!this.#upstreams.names.has(upstream)) throw wrong(`there is no upstream ${shortJson(upstream)}`)
    if (address instanceof InvalidValue) throw wrong(address.why)
    const { servers } = this.#upstreams.get(upstream)
    if (servers.length >= MOST_SERVERS && this.#find(upstream, server) === undefined)
      throw wrong(`${upstream} has ${servers.length} servers, at most ${MOST_SERVERS} are possible`)
    if (!ofOneKind([server, ...servers.map(each => each.server)]))
      throw wrong(`${upstream} has servers of another kind: http:// and tcp:// do not go together`)
  }

  #reply(upstream: string, server: string, outcome: ServerReply['outcome']): ServerReply {
    const { servers } = this.#upstreams.get(upstream)
    return { upstream, server, outcome, used: servers.filter(({ state }) => state !== 'drained').length }
  }

  /** Applies all changes of the state, each upstream's at once. */
  #applyAll(): void {
    const upstreams = new Set(this.#overrides.keys())
    this.#overrides.clear()
    for (const key of this.section.keys()) {
      const upstream = this.#read(key)
      if (upstream !== null) upstreams.add(upstream)
    }
    for (const upstream of upstreams) this.#apply(upstream)
  }

  #apply(upstream: string): void {
    this.#upstreams.override(upstream, this.#overrides.get(upstream) ?? new Map())
  }

  /** Reads the change of a server from the state. Returns the name of its upstream, or null for a key of another kind. */
  #read(key: string): string | null {
    const id = parseOverlayKey(key)
    if (id?.origin !== 'runtime') return null
    const { upstream, server } = parseServerName(id.name)
    const stored = getIfReadable(this.section, key, (_, error) =>
      this.logger.warn({ err: error, key }, 'the change of a server cannot be read and is not used'),
    )
    const address = upstreamAddress(server)
    const overrides = this.#overrides.get(upstream) ?? new Map<string, ServerOverride>()
    this.#overrides.set(upstream, overrides)
    if (stored === undefined || address instanceof InvalidValue) overrides.delete(server)
    else overrides.set(server, { server: address, ...overrideFields(stored) })
    return upstream
  }
}

function overrideFields({ added, drained, weight, backup }: ServerMessage): typeof NO_CHANGE {
  return { added, drained, weight: Math.min(weight, MOST_WEIGHT), backup }
}

function changed(
  before: typeof NO_CHANGE,
  change: ServerChangeKind,
  weight: number | undefined,
  backup: boolean | undefined,
): typeof NO_CHANGE {
  switch (change) {
    case 'add':
      return { ...before, added: true, weight: weight ?? before.weight, backup: backup ?? before.backup }
    case 'remove':
      return { ...before, added: false, backup: false }
    case 'drain':
      return { ...before, drained: true }
    case 'undrain':
      return { ...before, drained: false }
    case 'weight':
      return { ...before, weight: weight ?? 0 }
  }
}

function isEqual(a: typeof NO_CHANGE, b: typeof NO_CHANGE): boolean {
  return (Object.keys(a) as (keyof typeof NO_CHANGE)[]).every(key => a[key] === b[key])
}

function readRequest(given: unknown): ServerRequest {
  const { change, upstream, server, weight, backup } = (isMap(given) ? given : {}) as Partial<ServerRequest>
  if (!SERVER_CHANGES.some(each => each === change))
    throw wrong(`${shortJson(change)} is no change of a server`)
  if (typeof upstream !== 'string' || typeof server !== 'string') throw wrong('give an upstream and a server')
  if (weight !== undefined && !(Number.isInteger(weight) && weight >= 1 && weight <= MOST_WEIGHT))
    throw wrong(`${shortJson(weight)} is no weight: give a whole number from 1 to ${MOST_WEIGHT}`)
  if (backup !== undefined && typeof backup !== 'boolean')
    throw wrong(`${shortJson(backup)} is not true or false`)
  const address = upstreamAddress(server)
  return {
    change: change!,
    upstream,
    server: address instanceof InvalidValue ? server : address.text,
    weight,
    backup,
  }
}

function wrong(why: string): FdbError {
  return new FdbError('ERR_FDB_SERVERS', `no server was changed: ${why}`)
}
