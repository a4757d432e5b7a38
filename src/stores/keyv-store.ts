import { EventEmitter } from 'node:events'
import { checkOptions } from '../checks/options.js'
import { absent, map, optional, type ShapeOf } from '../checks/shape.js'
import { unchecked } from '../checks/values.js'
import type { Member } from '../member/member.js'
import { msgpack } from '../state/codec.js'
import { defineSection, type SectionSchema } from '../state/schema.js'
import { type Expiring, ExpiringSection } from './expiring-section.js'

export interface KeyvStoreOptions {
  /** Name of the section; default `keyv`. */
  section?: string | undefined
  /** Default: the member of this process, which may join later. */
  member?: Member | undefined
}

const OPTIONS = map({
  section: optional(unchecked<string>(), 'keyv'),
  member: absent(unchecked<Member>()),
} satisfies ShapeOf<KeyvStoreOptions>)

/**
 * One schema object for all stores, because several stores may use the same section. Defined by the first store, because msgpack() loads a
 * package.
 */
let schema: SectionSchema<Expiring<unknown>> | undefined

/** A store for Keyv that keeps its entries in the state of this process's service: `new Keyv({ store: new KeyvStore() })`. */
export class KeyvStore extends EventEmitter {
  /** Keyv iterates only over stores with a dialect that it knows. */
  readonly opts = { dialect: 'redis', url: '' }
  /** Set by Keyv, which prefixes each key with it. */
  namespace: string | undefined = undefined
  readonly #entries: ExpiringSection<unknown>

  constructor(options: KeyvStoreOptions = {}) {
    super()
    const { section, member } = checkOptions('new KeyvStore()', options, OPTIONS)
    schema ??= defineSection({ version: 1, codec: msgpack<Expiring<unknown>>() })
    this.#entries = new ExpiringSection({ section, schema, member })
  }

  async get<T>(key: string): Promise<T | undefined> {
    return this.#entries.get(key) as T | undefined
  }

  async getMany<T>(keys: string[]): Promise<(T | undefined)[]> {
    return keys.map(key => this.#entries.get(key) as T | undefined)
  }

  /** `ttl` is in milliseconds. */
  async set(key: string, value: unknown, ttl?: number): Promise<boolean> {
    await this.#entries.put(key, value, ttl ?? null)
    return true
  }

  async delete(key: string): Promise<boolean> {
    return await this.#entries.delete(key)
  }

  async deleteMany(keys: string[]): Promise<boolean> {
    const existed = await Promise.all(keys.map(key => this.#entries.delete(key)))
    return existed.includes(true)
  }

  async has(key: string): Promise<boolean> {
    return this.#entries.get(key) !== undefined
  }

  /** Deletes the entries of the namespace, or all entries without one. */
  async clear(): Promise<void> {
    await this.#entries.clear(this.#prefix(this.namespace))
  }

  async *iterator<T>(namespace: string | undefined = this.namespace): AsyncGenerator<[string, T], void> {
    const prefix = this.#prefix(namespace)
    for await (const [key, value] of this.#entries.entries())
      if (key.startsWith(prefix)) yield [key, value as T]
  }

  async disconnect(): Promise<void> {}

  #prefix(namespace: string | undefined): string {
    return namespace === undefined || namespace === '' ? '' : `${namespace}:`
  }
}
