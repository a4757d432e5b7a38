import { InOrder } from '../../base/in-order.js'
import { ShardedMap } from '../../base/large-collections.js'
import { type Logger, runInSlices, type Section } from '../../index.js'
import { changesOf } from '../entries/difference.js'
import type { Action } from './action.js'
import { RouteFollower, type RouteSource } from './follow.js'
import { type Origin, originOf, parseRouteKey, routeKey } from './path-tree.js'
import { type NewFile, type Reconciled, reconcile } from './reconcile.js'
import { type AddOptions, addRoutes, type RouteAddition, type RouteRemoval, removeRoutes } from './runtime.js'
import { type RouteChange, type RouteMessage, type RouteStamp, type RouteState, targetOf } from './section.js'
import { RouteTable } from './table.js'
import type { RouteTarget } from './target.js'

/** Changes of the file in one bulk: the first bulk needs no merging with present routes. */
const BATCH_CHANGES = 16_384
const MOST_LOGGED_NAMES = 20

export interface LiveRoutesOptions {
  section: Section<RouteMessage>
  generation: number
  /** Whether this process's file is the one in the state. */
  serves: () => boolean
  compile: (target: RouteTarget) => Action
  logger: Logger
}

/** The routes of a running proxy, with a table for lookups. Changes are made one after the other, so that checks stay valid. */
export class LiveRoutes {
  readonly table = new RouteTable<Action>()
  readonly #section: Section<RouteMessage>
  readonly #view: RouteView
  readonly #follower: RouteFollower<Action>
  readonly #generation: number
  readonly #logger: Logger
  readonly #unsubscribe: () => void
  #changes = 0
  /** The result of {@link prepare}; null: it has been written. */
  #prepared: { file: NewFile; found: Reconciled; changes: number } | null = null
  readonly #order = new InOrder()

  constructor(options: LiveRoutesOptions) {
    const { section, generation, serves, compile, logger } = options
    this.#section = section
    this.#generation = generation
    this.#logger = logger
    this.#view = new RouteView(section, serves)
    this.#unsubscribe = section.onChange(() => this.#changes++)
    this.#follower = new RouteFollower(this.#view, this.table, {
      scan: false,
      compile,
      onUnreadable: (key, error) =>
        logger.warn({ err: error, key }, 'a route cannot be read and is not served'),
    })
  }

  /** Once, before this process may write: requests then find the routes of its file, and those made at run time. */
  prepare(file: NewFile): Promise<void> {
    return this.#order.run(async () => {
      const changes = this.#changesSeen
      const put = this.#follower.put.bind(this.#follower)
      const found = await runInSlices(reconcile(this.#section, file, this.#stamp, put))
      this.#view.plan(await runInSlices(planOf(found)))
      // An entry that changed meanwhile may have been read before it was planned.
      if (this.#changesSeen !== changes) this.#follower.refresh()
      await this.#follower.caughtUp()
      this.#prepared = { file, found, changes }
    })
  }

  /** Writes the file's changes. Rejects when this process may not write (any more); what it serves stays the same. */
  apply(file: NewFile): Promise<Reconciled> {
    return this.#order.run(async () => {
      const changes =
        this.#preparedFor(file) ?? (await runInSlices(reconcile(this.#section, file, this.#stamp)))
      for (const batch of batches(changesOf(changes))) await this.#section.bulk(batch)
      this.#view.plan(null)
      await this.#follower.caughtUp()
      this.#report(changes, file)
      return changes
    })
  }

  /** Compiles all routes again: their targets, or the process that owns the file, have changed. */
  async refresh(): Promise<void> {
    this.#follower.refresh()
    await this.#follower.caughtUp()
  }

  /** All or none; served when it resolves. Rejects with ERR_FDB_ROUTES, or as the state's `bulk`. */
  add(given: unknown, options: Omit<AddOptions, keyof RouteStamp>): Promise<RouteAddition> {
    return this.#order.run(async () => {
      const addition = await runInSlices(addRoutes(this.#section, given, { ...options, ...this.#stamp }))
      await this.#applyChanges(addition.changes)
      return addition
    })
  }

  remove(given: unknown): Promise<RouteRemoval> {
    return this.#order.run(async () => {
      const removal = await runInSlices(removeRoutes(this.#section, given))
      await this.#applyChanges(removal.changes)
      return removal
    })
  }

  /** The keys of all routes of the state, unordered, but in the same order while {@link digest} is the same. */
  keys(): IterableIterator<string> {
    return this.#section.keys()
  }

  listed(key: string): ListedRoute | null {
    return listedRoute(this.#section, key)
  }

  /** Changes with every change of the routes. */
  get digest(): string {
    return this.#section.digest
  }

  get size(): number {
    return this.#section.size
  }

  stop(): void {
    this.#unsubscribe()
    this.#follower.stop()
  }

  /** The result of {@link prepare}, if it was for the same file and is still valid. */
  #preparedFor(file: NewFile): Reconciled | null {
    const prepared = this.#prepared
    this.#prepared = null
    if (prepared === null || prepared.changes !== this.#changesSeen) return null
    const { routes, upstreams, former } = prepared.file
    return file.routes === routes && isSame(file.upstreams, upstreams) && isSame(file.former, former)
      ? prepared.found
      : null
  }

  async #applyChanges(changes: readonly RouteChange[]): Promise<void> {
    await this.#section.bulk(changes)
    await this.#follower.caughtUp()
  }

  /** Changes of the section, including this turn's. */
  get #changesSeen(): number {
    void this.#section.size
    return this.#changes
  }

  get #stamp(): RouteStamp {
    return { generation: this.#generation, now: Date.now() }
  }

  #report(
    { puts, deletes, unchanged, conflicts, former, dangling, needed }: Reconciled,
    file: NewFile,
  ): void {
    const upstreams = [...needed].filter(name => file.former.has(name)).slice(0, MOST_LOGGED_NAMES)
    const facts = { changed: puts.length, removed: deletes.length, unchanged }
    this.#logger.info(facts, 'the routes of the file are in force')
    if (conflicts.length > 0) {
      this.#logger.warn(
        { routes: conflicts.slice(0, MOST_LOGGED_NAMES), count: conflicts.length },
        'routes of the file are out of force: there are ones made at run time (fd-broker routes remove)',
      )
    }
    if (former.length > 0) {
      this.#logger.warn(
        { routes: former.slice(0, MOST_LOGGED_NAMES), count: former.length, upstreams },
        'routes made at run time lead to upstreams that the file does not have, and are served by those of the state',
      )
    }
    if (dangling.length > 0) {
      this.#logger.warn(
        { routes: dangling.slice(0, MOST_LOGGED_NAMES), count: dangling.length },
        'routes made at run time lead to upstreams that nobody knows, and are answered with 503',
      )
    }
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
  path: string
  origin: Origin
  /** A route made at run time overrides this one of the file. */
  shadowed: boolean
  /** null: a newer version made it, this one does not serve it. */
  target: RouteTarget | null
  /** Milliseconds since 1970. */
  created: number
  generation: number
}

/** Null: it is gone, or a newer version made it. */
export function listedRoute(state: RouteState, key: string): ListedRoute | null {
  const id = parseRouteKey(key)
  const stored = id && state.get(key)
  if (!id || !stored) return null
  const { host, path, origin } = id
  const shadowed = origin === 'file' && state.has(routeKey({ origin: 'runtime', host, path }))
  const { created, generation } = stored
  return { host, path, origin, shadowed, target: targetOf(stored), created, generation }
}

const STEP = 32

/** Puts by key; null: a deletion. */
type Plan = ShardedMap<RouteMessage | null>

export function* planOf({ puts, deletes }: Reconciled): Generator<undefined, Plan> {
  const plan: Plan = new ShardedMap()
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

type Listener = Parameters<RouteSource['onChange']>[0]

/**
 * The routes as this process serves them. Its own file's routes count before it may write them, so that its first request finds them. While another process
 * serves, the state's file routes do not count: their upstreams may have other names.
 */
export class RouteView implements RouteSource {
  readonly #section: RouteSource
  readonly #ownsFile: () => boolean
  #planned: Plan | null = null

  /** `own`: whether the state's file routes are this process's. */
  constructor(section: RouteSource, own: () => boolean) {
    this.#section = section
    this.#ownsFile = own
  }

  /** These changes count as if they were made; null: the state alone counts. */
  plan(changes: Plan | null): void {
    this.#planned = changes
  }

  get size(): number {
    return this.#section.size
  }

  /** A key may come twice, or without a route: filtering a large plan would block. */
  *keys(): Generator<string> {
    yield* this.#section.keys()
    for (const [key] of this.#planned?.entries() ?? []) yield key
  }

  get(key: string): RouteMessage | undefined {
    const planned = this.#planned?.get(key)
    if (planned !== undefined) return planned ?? undefined
    return this.#section.get(key)
  }

  onChange(listener: Listener): () => void {
    return this.#section.onChange(change => {
      if (this.#ownsFile() || (change.op !== 'clear' && originOf(change.key) !== 'file')) listener(change)
    })
  }
}
