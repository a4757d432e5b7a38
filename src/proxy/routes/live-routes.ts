import { ShardedMap } from '../../base/large-collections.js'
import { type Logger, runInSlices, type Section } from '../../index.js'
import { fdbroker } from '../../proto/proxy.js'
import { changesOf, getIfReadable, type Stamp } from '../entries/difference.js'
import { MAX_LOGGED_NAMES, ORIGINS, type Origin, Overlay, originOf, overlayKey } from '../entries/overlay.js'
import { ROUTE_PREFIX, type SourceMessage } from '../entries/source-section.js'
import type { RouteAction } from './action.js'
import { splitConditions, writtenConditions } from './conditions.js'
import { RouteFollower, type RouteSource } from './follow.js'
import { splitScope } from './host.js'
import { parseRouteKey, type RouteId, routeKey } from './path-tree.js'
import { type FileRoutes, type Reconciled, reconcile, unchanged } from './reconcile.js'
import { type AddOptions, addRoutes, type RouteAddition, type RouteRemoval, removeRoutes } from './runtime.js'
import { type RouteChange, type RouteMessage, type RouteState, servedTarget, targetOf } from './section.js'
import { RouteTable } from './table.js'
import type { RouteTarget } from './target.js'

/** How many changes of the file go into one bulk write. */
const BATCH_CHANGES = 16_384

export interface LiveRoutesOptions {
  section: Section<RouteMessage>
  /** The section that follows a store; null if this process takes no routes from it. */
  source?: Section<SourceMessage> | null
  generation: number
  /** Reports whether changes of the state's file routes apply to this process: while it joins or serves, or if it follows another service's state. */
  serves: () => boolean
  compile: (target: RouteTarget) => RouteAction
  logger: Logger
}

/** The routes of a running proxy, with a table for lookups. */
export class LiveRoutes extends Overlay<RouteMessage> {
  readonly table = new RouteTable<RouteAction>()
  readonly #view: RouteView
  readonly #follower: RouteFollower<RouteAction>
  readonly #onUnreadable: (key: string, error: unknown) => void
  readonly #unsubscribe: () => void
  #changes = 0
  /** The result of {@link prepare}, until it is written. */
  #prepared: { file: FileRoutes; found: Reconciled; changes: number } | null = null

  constructor(options: LiveRoutesOptions) {
    const { section, source = null, generation, serves, compile, logger } = options
    super(section, generation, logger)
    this.#view = new RouteView(section, serves, source)
    this.#unsubscribe = section.onChange(() => this.#changes++)
    this.#onUnreadable = (key, error) =>
      logger.warn({ err: error, key }, 'a route cannot be read and is not served')
    this.#follower = new RouteFollower(this.#view, this.table, { compile, onUnreadable: this.#onUnreadable })
  }

  /** Fills the table with the routes of the file, and with those made at run time, before this process may write. Called once. */
  prepare(file: FileRoutes): Promise<void> {
    return this.change(async () => {
      const changes = this.#changesSeen
      const put = this.#follower.put.bind(this.#follower)
      const isKnown = file.digest === this.section.digest
      const found = await runInSlices(
        isKnown ? unchanged(file, put) : reconcile(this.section, file, this.stamp, put),
      )
      await runInSlices(this.#view.sourced(put, this.#onUnreadable))
      this.#view.plan(await runInSlices(planOf(found)))
      // An entry that has changed since `changes` was read may be in the table in its old form.
      if (this.#changesSeen !== changes) this.#follower.refresh()
      await this.#follower.caughtUp()
      this.#prepared = { file, found, changes }
    })
  }

  /** Writes the changes of the file to the state. If this process must not write, rejects, and keeps the table. */
  apply(file: FileRoutes): Promise<Reconciled> {
    return this.change(async () => {
      const seen = this.#changesSeen
      const changes =
        this.#takePrepared(file) ?? (await runInSlices(reconcile(this.section, file, this.stamp)))
      const isSame = [file.routes.length, this.section.size].every(count => count === changes.unchanged)
      if (isSame && this.#changesSeen === seen) changes.digest = this.section.digest
      for (const batch of batches(changesOf(changes))) await this.section.ownBulk_(batch)
      this.#view.plan(null)
      await this.#follower.caughtUp()
      this.#report(changes, file)
      return changes
    })
  }

  /** Compiles all routes again. Needed if the upstreams have changed, or if another process's file now applies. */
  async refresh(): Promise<void> {
    this.#follower.refresh()
    await this.#follower.caughtUp()
  }

  /** Adds all routes or none. Resolves when they are served. Rejects with ERR_FDB_ROUTES, as the state's `bulk`, or, if `gone` aborts before it begins, with its reason. */
  add(given: unknown, options: Omit<AddOptions, keyof Stamp>, gone?: AbortSignal): Promise<RouteAddition> {
    return this.change(async () => {
      const addition = await runInSlices(addRoutes(this.section, given, { ...options, ...this.stamp }))
      await this.#applyChanges(addition.changes)
      return addition
    }, gone)
  }

  remove(given: unknown, gone?: AbortSignal): Promise<RouteRemoval> {
    return this.change(async () => {
      const removal = await runInSlices(removeRoutes(this.#view, given))
      await this.#applyChanges(removal.changes)
      return removal
    }, gone)
  }

  /** The keys of all routes of the state, in an order that stays the same as long as {@link digest} does. */
  keys(): IterableIterator<string> {
    return this.#view.stored()
  }

  describe(key: string): ListedRoute | null {
    return describeRoute(this.#view, key)
  }

  /** Changes with every change of the routes. */
  get digest(): string {
    return this.#view.digest
  }

  get size(): number {
    return this.#view.size
  }

  stop(): void {
    this.#unsubscribe()
    this.#follower.stop()
  }

  /** Takes the result of {@link prepare}. Returns null if it is for another file, or if routes have changed since. */
  #takePrepared(file: FileRoutes): Reconciled | null {
    const prepared = this.#prepared
    this.#prepared = null
    if (prepared === null || prepared.changes !== this.#changesSeen) return null
    const { routes, upstreams, former } = prepared.file
    return file.routes === routes && isSame(file.upstreams, upstreams) && isSame(file.former, former)
      ? prepared.found
      : null
  }

  async #applyChanges(changes: readonly RouteChange[]): Promise<void> {
    await this.section.bulk(changes)
    await this.#follower.caughtUp()
  }

  /** The number of changes of the section so far, including those of this turn. */
  get #changesSeen(): number {
    void this.section.size
    return this.#changes
  }

  #report(
    { puts, deletes, unchanged, conflicts, former, dangling, needed }: Reconciled,
    file: FileRoutes,
  ): void {
    const upstreams = [...needed].filter(name => file.former.has(name)).slice(0, MAX_LOGGED_NAMES)
    const facts = { changed: puts.length, removed: deletes.length, unchanged }
    this.logger.info(facts, 'the routes of the file are in force')
    const warn = (routes: readonly string[], what: string, more?: object) =>
      this.warnNamed('routes', routes, `routes made at run time ${what}`, more)
    warn(conflicts, 'override routes of the file (to remove them: fd-broker routes remove)')
    warn(former, 'lead to upstreams that only the state has, not the file; they are served', { upstreams })
    warn(dangling, 'lead to unknown upstreams: their requests get 503')
  }
}

function isSame(one: ReadonlySet<string>, other: ReadonlySet<string>): boolean {
  return one.size === other.size && [...one].every(name => other.has(name))
}

function* batches(changes: Iterable<RouteChange>): Generator<RouteChange[]> {
  let part: RouteChange[] = []
  for (const change of changes) {
    part.push(change)
    if (part.length < BATCH_CHANGES) continue
    yield part
    part = []
  }
  if (part.length > 0) yield part
}

export interface ListedRoute {
  host: string
  /** Null if the route applies to all listeners. */
  listener: string | null
  path: string
  /** Null if the route has no conditions. */
  when: string[] | null
  origin: Origin
  /** A route of another origin overrides this one. */
  shadowed: boolean
  /** Null if this version does not know the target, which a newer version wrote, or cannot read the entry. */
  target: RouteTarget | null
  /** Milliseconds since 1970. */
  created: number
  generation: number
}

/** Returns null if the route no longer exists, or if this version does not know its kind of key. */
export function describeRoute(state: RouteState, key: string): ListedRoute | null {
  const id = parseRouteKey(key)
  if (id === null || !state.has(key)) return null
  const stored = getIfReadable(state, key)
  const { origin } = id
  const { path, conditions } = splitConditions(id.path)
  const { listener, host } = splitScope(id.host)
  const above = ORIGINS.slice(ORIGINS.indexOf(origin) + 1)
  const shadowed = above.some(each => state.has(routeKey({ ...id, origin: each })))
  const { created = 0, generation = 0 } = stored ?? {}
  return {
    host,
    listener,
    path,
    when: conditions === '' ? null : writtenConditions(conditions),
    origin,
    shadowed,
    target: stored ? targetOf(stored) : null,
    created,
    generation,
  }
}

const STEP = 32

/** The planned value of each changed key; null means a deletion. */
type PlannedRoutes = ShardedMap<RouteMessage | null>

export function* planOf({ puts, deletes }: Reconciled): Generator<undefined, PlannedRoutes> {
  const plan: PlannedRoutes = new ShardedMap()
  for (const [index, { key, value }] of puts.entries()) {
    plan.set(key, value)
    if (index % STEP === 0) yield
  }
  for (const [index, key] of deletes.entries()) {
    plan.set(key, null)
    if (index % STEP === 0) yield
  }
  return plan
}

type RouteChangeListener = Parameters<RouteSource['onChange']>[0]

/**
 * The routes as this process serves them. Includes the routes of this process's own file before they may be written, so that its first request finds
 * them. Ignores changes of the state's file routes after this process has handed over: those routes come from another version's file, whose
 * upstreams may have other names.
 */
export class RouteView implements RouteSource {
  readonly #section: RouteSource & Pick<Section<RouteMessage>, 'has' | 'digest'>
  readonly #serves: () => boolean
  readonly #source: Section<SourceMessage> | null
  #planned: PlannedRoutes | null = null

  constructor(
    section: RouteSource & Pick<Section<RouteMessage>, 'has' | 'digest'>,
    serves: LiveRoutesOptions['serves'],
    source: LiveRoutesOptions['source'] = null,
  ) {
    this.#section = section
    this.#serves = serves
    this.#source = source
  }

  get digest(): string {
    return `${this.#section.digest}${this.#source?.digest ?? ''}`
  }

  has(key: string): boolean {
    const name = sourceKeyOf(key)
    return name === null ? this.#section.has(key) : (this.#source?.has(name) ?? false)
  }

  /** The keys of the state's routes. */
  *stored(): Generator<string> {
    yield* this.#section.keys()
    for (const key of this.#source?.keys() ?? [])
      if (key.startsWith(ROUTE_PREFIX)) yield overlayKey('source', key.slice(ROUTE_PREFIX.length))
  }

  /** Calls `put` with each route of the source, except those that change meanwhile. */
  *sourced(
    put: (id: RouteId, target: RouteTarget) => void,
    invalid: (key: string, error: Error) => void,
  ): Generator<void> {
    const changed = new Set<string>()
    const leave = this.#source?.onChange(({ key }) => void changed.add(key))
    let steps = 0
    try {
      // In the order of the file, which is faster than by keys.
      for (const [key, { route }] of this.#source?.entries({ invalid }) ?? []) {
        if (++steps % STEP === 0) yield
        if (!key.startsWith(ROUTE_PREFIX) || !route || changed.has(key)) continue
        const id = parseRouteKey(overlayKey('source', key.slice(ROUTE_PREFIX.length)))
        const target = servedTarget(route)
        if (id && target) put(id, target)
      }
    } finally {
      leave?.()
    }
  }

  /** Shows these changes as if they were written. If `changes` is null, shows only the state. */
  plan(changes: PlannedRoutes | null): void {
    this.#planned = changes
  }

  get size(): number {
    return this.#section.size + (this.#source?.size ?? 0)
  }

  /** May yield a key twice, or a key without a route: filtering a large plan would block the event loop. */
  *keys(): Generator<string> {
    yield* this.stored()
    for (const [key] of this.#planned?.entries() ?? []) yield key
  }

  get(key: string): RouteMessage | undefined {
    const planned = this.#planned?.get(key)
    if (planned !== undefined) return planned ?? undefined
    const name = sourceKeyOf(key)
    if (name === null) return this.#section.get(key)
    const route = this.#source?.get(name)?.route
    return route ? fdbroker.proxy.Route.create(route) : undefined
  }

  onChange(listener: RouteChangeListener): () => void {
    const unsubscribe = this.#section.onChange(change => {
      if (this.#serves() || (change.op !== 'clear' && originOf(change.key) !== 'file')) listener(change)
    })
    const leave = this.#source?.onChange(({ op, key }) => {
      if (op === 'clear' || key.startsWith(ROUTE_PREFIX))
        listener({ op, key: overlayKey('source', key.slice(ROUTE_PREFIX.length)) })
    })
    return () => {
      unsubscribe()
      leave?.()
    }
  }
}

const SOURCE_PREFIX = overlayKey('source', '')

/** Returns the key in the section that follows a store; null for a route of another origin. */
function sourceKeyOf(key: string): string | null {
  return key.startsWith(SOURCE_PREFIX) ? `${ROUTE_PREFIX}${key.slice(SOURCE_PREFIX.length)}` : null
}
