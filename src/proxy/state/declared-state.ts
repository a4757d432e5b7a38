import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Logger, Member, Section } from '../../index.js'
import type { ProxyConfig } from '../config/schema.js'
import {
  applyDifference,
  type DifferenceOptions,
  FIRST_ATTRIBUTE,
  getIfReadable,
  type StoredEntry,
} from '../entries/difference.js'
import { nameOfRoutes } from '../routes/identity.js'
import type { RouteRule } from '../routes/rule.js'
import type { Upstreams } from '../upstreams/upstreams.js'
import {
  isOptional,
  listenerMessage,
  settingMessage,
  settingMessages,
  upstreamMessage,
  upstreamOf,
} from './entries.js'
import {
  type DeclaredSections,
  declaredSections,
  listenersSection,
  settingsSection,
  upstreamsSection,
} from './sections.js'

/** The key of a setting with the name of a file's routes and the digest of the section that has these alone. Other versions keep and ignore it. */
const ROUTES_DIGEST = 'routes.digest'
/** Fewer routes are compared in a few milliseconds. */
const MANY_ROUTES = 256

/**
 * The configuration in the state. The serving process writes it. Every process also adopts upstreams that only the state has, because routes made at
 * run time and followers may use them.
 */
export class DeclaredState {
  readonly #declared: DeclaredSections
  readonly #member: Member
  readonly #upstreams: Upstreams
  readonly #logger: Logger
  readonly #unsubscribe: () => void

  constructor(member: Member, upstreams: Upstreams, logger: Logger) {
    this.#declared = declaredSections(member)
    this.#member = member
    this.#upstreams = upstreams
    this.#logger = logger
    const section = this.#declared.upstreams
    for (const name of section.keys()) this.#adopt(name)
    this.#unsubscribe = section.onChange(({ op, key }) => {
      if (op === 'put') this.#adopt(key)
    })
  }

  /** Writes what differs. When old and new upstreams exist, calls `between`, which returns the upstreams to keep. Rejects if this process must not write. */
  async write(
    config: ProxyConfig,
    between: () => Promise<ReadonlySet<string>>,
  ): Promise<ReadonlySet<string>> {
    const stamp = { created: Date.now(), generation: this.#member.generation }
    const first = this.#declared.settings.size === 0
    const upstreams = new Map(config.upstreams.map(each => [each.name, upstreamMessage(each, stamp)]))
    const listeners = new Map(config.listeners.map(each => [each.name, listenerMessage(each, stamp)]))
    const { encode } = upstreamsSection.codec
    const put = await apply(this.#declared.upstreams, upstreams, { encode, keeps: () => true })
    const needed = await between()
    const removed = await apply(this.#declared.upstreams, upstreams, {
      encode,
      keeps: name => needed.has(name),
    })
    // Lets the event loop run here: code is slow when it runs for the first time, and both halves in one turn would delay clients longer.
    await nextTurn()
    const changes = {
      upstreams: put || removed ? { ...put, ...removed } : undefined,
      listeners: await apply(this.#declared.listeners, listeners, {
        encode: listenersSection.codec.encode,
        keeps: () => false,
      }),
      settings: await apply(this.#declared.settings, settingMessages(config, stamp), {
        encode: settingsSection.codec.encode,
        keptFrom: FIRST_ATTRIBUTE,
        // Deletes only settings that this version knows to be optional: unknown settings belong to other versions.
        keeps: path => !isOptional(path),
      }),
    }
    if (!first && Object.values(changes).some(each => each !== undefined)) {
      this.#logger.info(changes, 'the configuration has changed')
    }
    return needed
  }

  /** Returns the digest of a state with exactly these routes of a file, as {@link recordDigest} has recorded it; null if it is unknown. */
  digestOf(routes: readonly RouteRule[]): string | null {
    const name = nameOfRoutes(routes)
    if (name === null || routes.length < MANY_ROUTES) return null
    const [of, digest] = getIfReadable(this.#declared.settings, ROUTES_DIGEST)?.list?.items ?? []
    return of === name ? (digest ?? null) : null
  }

  /** Lets the next version find out without a comparison that the state has exactly these routes. */
  async recordDigest(routes: readonly RouteRule[], digest: string): Promise<void> {
    const name = nameOfRoutes(routes)
    if (name === null || routes.length < MANY_ROUTES || this.digestOf(routes) === digest) return
    const stamp = { created: Date.now(), generation: this.#member.generation }
    const value = settingMessage([name, digest], stamp)
    await this.#declared.settings.ownBulk_([{ key: ROUTES_DIGEST, value }])
  }

  stop(): void {
    this.#unsubscribe()
  }

  #adopt(name: string): void {
    if (this.#upstreams.names.has(name)) return
    try {
      const stored = this.#declared.upstreams.get(name)
      const config = stored && upstreamOf(name, stored)
      if (config) this.#upstreams.adopt(config)
      if (config !== null) return
    } catch (error) {
      this.#logger.warn(
        { err: error, upstream: name },
        'an upstream of the state cannot be read: requests for it get 503',
      )
      return
    }
    this.#logger.warn(
      { upstream: name },
      'an upstream of the state cannot be used by this version: requests for it get 503',
    )
  }
}

/** Returns the names of the changed entries, or undefined if nothing differs. */
async function apply<M extends StoredEntry>(
  section: Section<M>,
  wanted: ReadonlyMap<string, M>,
  options: DifferenceOptions<M>,
): Promise<{ added?: string[]; changed?: string[]; removed?: string[] } | undefined> {
  const found = await applyDifference(section, wanted, options)
  if (found === null) return undefined
  const { puts, added, deletes: removed } = found
  const fresh = new Set(added)
  const changed = puts.map(({ key }) => key).filter(key => !fresh.has(key))
  return {
    ...(added.length > 0 && { added }),
    ...(changed.length > 0 && { changed }),
    ...(removed.length > 0 && { removed }),
  }
}
