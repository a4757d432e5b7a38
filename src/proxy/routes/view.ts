import { ShardedMap } from '../../base/sharded-map.js'
import type { RouteSource } from './follow.js'
import { originOf } from './key.js'
import type { Reconciled } from './reconcile.js'
import type { RouteMessage } from './section.js'

const STEP = 32

/** What is to be put, by its key, and deleted (null). */
export type Plan = ShardedMap<RouteMessage | null>

/** Yields where it may be interrupted. */
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
 * The routes as this process serves them, which is not always what the state says.
 *
 * Before a successor may write, the routes of its file are planned: they count here already, so that the first request
 * it accepts finds them. And while another process serves, the state has the routes of *its* file: they do not count for
 * the connections that are left here, whose upstreams may have other names; routes made at run time do.
 */
export class RouteView implements RouteSource {
  readonly #section: RouteSource
  readonly #own: () => boolean
  #planned: Plan | null = null

  /** `own`: whether the routes of the file in the state are this process's. */
  constructor(section: RouteSource, own: () => boolean) {
    this.#section = section
    this.#own = own
  }

  /** These changes count from now on, as if they had been made. Null: what the state says. */
  plan(changes: Plan | null): void {
    this.#planned = changes
  }

  get size(): number {
    return this.#section.size
  }

  /** A key may come twice, or have no route: nothing is passed over in one go, however much is planned. */
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
      if (this.#own() || (change.op !== 'clear' && originOf(change.key) !== 'file')) listener(change)
    })
  }
}
