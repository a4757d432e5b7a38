import { EventEmitter } from 'node:events'
import { checkOptions } from '../checks/options.js'
import { wrongOption } from '../checks/place.js'
import { absent, map, optional, type ShapeOf } from '../checks/shape.js'
import { type Checked, milliseconds, unchecked } from '../checks/values.js'
import type { Member } from '../member/member.js'
import { json } from '../state/codec.js'
import { defineSection } from '../state/schema.js'
import { type Expiring, ExpiringSection } from './expiring-section.js'

export interface SessionStoreOptions {
  /** Name of the section; default `sessions`. */
  section?: string | undefined
  /** Lifetime of a session whose cookie has no expiry, in milliseconds. Default: a day. */
  ttl?: number | undefined
  /** Default: the member of this process, which may join later. */
  member?: Member | undefined
}

export interface SessionRecord {
  cookie?: { expires?: Date | string | null | undefined }
  [name: string]: unknown
}

/** `T`: the type that the module of the sessions gives them. */
export interface SessionStoreMethods {
  get<T = SessionRecord>(sid: string, callback: (error: unknown, session?: T | null) => void): void
  set(sid: string, session: object, callback?: (error?: unknown) => void): void
  destroy(sid: string, callback?: (error?: unknown) => void): void
  touch(sid: string, session: object, callback?: () => void): void
  all<T = SessionRecord>(callback: (error: unknown, sessions?: Record<string, T>) => void): void
  length(callback: (error: unknown, length?: number) => void): void
  clear(callback?: (error?: unknown) => void): void
}

/** express-session, or another module with its class `Store`. */
export interface SessionModule<S extends object> {
  readonly Store: abstract new () => S
}

/** One schema object for all stores, because several stores may use the same section. */
const SCHEMA = defineSection({ version: 1, codec: json<Expiring<SessionRecord>>(), secret: true })
const DAY_MS = 86_400_000
const OPTIONS = map({
  section: optional(unchecked<string>(), 'sessions'),
  ttl: optional(milliseconds(1), DAY_MS),
  member: absent(unchecked<Member>()),
} satisfies ShapeOf<SessionStoreOptions>)
/** A touch is written only if it moves the expiry by at least this part of the remaining lifetime, or by {@link MOST_TOUCH_MS}. */
const TOUCH_PART = 0.01
const MOST_TOUCH_MS = 60_000

/**
 * Creates an express-session store that keeps sessions in the state of this process's service, so that logins outlive upgrades. With
 * express-session: `session({ store: sessionStore(session), … })`; with `@fastify/session`, which needs no base class: `sessionStore()`.
 *
 * The section is secret: tools do not show its values. A session must be JSON.
 */
export function sessionStore(module?: null, options?: SessionStoreOptions): SessionStoreMethods & EventEmitter
export function sessionStore<S extends object>(
  module: SessionModule<S>,
  options?: SessionStoreOptions,
): SessionStoreMethods & S
export function sessionStore(
  module?: SessionModule<object> | null,
  options: SessionStoreOptions = {},
): SessionStoreMethods {
  const given = checkOptions('sessionStore()', options, OPTIONS)
  const Base = module === undefined || module === null ? EventEmitter : module.Store
  if (typeof Base !== 'function') throw wrongOption('module', module, 'express-session, with its class Store')
  const sessions = new Sessions(given)
  class SessionSectionStore extends (Base as new () => object) implements SessionStoreMethods {
    get<T>(sid: string, callback: (error: unknown, session?: T | null) => void): void {
      answer(async () => (sessions.get(sid) as T | undefined) ?? null, callback)
    }

    set(sid: string, session: object, callback?: (error?: unknown) => void): void {
      answer(() => sessions.set(sid, session as SessionRecord), callback)
    }

    destroy(sid: string, callback?: (error?: unknown) => void): void {
      answer(() => sessions.destroy(sid), callback)
    }

    touch(sid: string, session: object, callback?: (error?: unknown) => void): void {
      answer(() => sessions.touch(sid, session as SessionRecord), callback)
    }

    all<T>(callback: (error: unknown, all?: Record<string, T>) => void): void {
      answer(() => sessions.all() as Promise<Record<string, T>>, callback)
    }

    length(callback: (error: unknown, length?: number) => void): void {
      answer(async () => Object.keys(await sessions.all()).length, callback)
    }

    clear(callback?: (error?: unknown) => void): void {
      answer(() => sessions.clear(), callback)
    }
  }
  return new SessionSectionStore()
}

/** Calls the callback with the result, in its own tick, so that an exception of the callback does not become a rejection of the store. */
function answer<T>(run: () => Promise<T>, callback: ((error: unknown, value?: T) => void) | undefined): void {
  run().then(
    value => callback && process.nextTick(callback, null, value),
    error => callback && process.nextTick(callback, error),
  )
}

class Sessions {
  readonly #entries: ExpiringSection<SessionRecord>
  readonly #ttl: number

  constructor({ section, ttl, member }: Checked<typeof OPTIONS>) {
    this.#entries = new ExpiringSection({ section, schema: SCHEMA, member })
    this.#ttl = ttl
  }

  get(sid: string): SessionRecord | undefined {
    return this.#entries.get(sid)
  }

  async set(sid: string, session: SessionRecord): Promise<void> {
    const left = this.#timeLeftMs(session)
    if (left <= 0) await this.#entries.delete(sid)
    else await this.#entries.put(sid, plain(session), left)
  }

  async destroy(sid: string): Promise<void> {
    await this.#entries.delete(sid)
  }

  /** Updates the cookie and the expiry; does nothing if the session was destroyed. */
  async touch(sid: string, session: SessionRecord): Promise<void> {
    const left = this.#timeLeftMs(session)
    const expires = Date.now() + left
    await this.#entries.change(sid, entry => {
      const moved = expires - (entry.expires ?? expires)
      if (Math.abs(moved) < Math.min(MOST_TOUCH_MS, left * TOUCH_PART)) return undefined
      return { expires, value: { ...entry.value, cookie: plain(session.cookie ?? {}) } }
    })
  }

  async all(): Promise<Record<string, SessionRecord>> {
    const all: Record<string, SessionRecord> = {}
    for await (const [sid, session] of this.#entries.entries()) all[sid] = session
    return all
  }

  async clear(): Promise<void> {
    await this.#entries.clear()
  }

  #timeLeftMs({ cookie }: SessionRecord): number {
    const expires = cookie?.expires
    if (expires === undefined || expires === null) return this.#ttl
    const left = new Date(expires).getTime() - Date.now()
    return Number.isNaN(left) ? this.#ttl : left
  }
}

/** Copies a session as JSON, without the classes of express-session, like other JSON stores. */
function plain<T>(value: T): T {
  return JSON.parse(JSON.stringify(value)) as T
}
