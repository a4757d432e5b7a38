import { nodeCrypto } from '../base/lazy.js'
import { type Logger, SILENT } from '../base/logger.js'
import { checkOptions, logger } from '../checks/options.js'
import { wrongOption } from '../checks/place.js'
import { map, optional, type ShapeOf } from '../checks/shape.js'
import { milliseconds, predicate } from '../checks/values.js'
import { FdbError } from '../errors.js'
import type { Member } from '../member/member.js'
import { fdbroker } from '../proto/tls.js'
import { protobuf } from '../state/codec.js'
import { defineSection } from '../state/schema.js'
import type { Section } from '../state/section.js'

type StoredKeys = fdbroker.tls.TicketKeys

/** The section of the state with the keys; an entry's key is {@link TicketKeyOptions.name}. */
const TICKET_KEYS = 'ticketKeys'
/** The length that `tls.Server.setTicketKeys()` takes. */
const KEY_BYTES = 48
const NONE = new Uint8Array(0)
const HOUR = 3_600_000
/** How often a process checks whether it must rotate overdue keys. */
const LOOK_AGAIN_MS = 10_000

export const ticketKeysSection = defineSection<StoredKeys>({
  version: 1,
  codec: protobuf<StoredKeys, fdbroker.tls.TicketKeys.$Properties>(fdbroker.tls.TicketKeys),
  secret: true,
  validate: ({ keys, previous }) => {
    if (keys?.length !== KEY_BYTES)
      throw new RangeError(`the keys have ${keys?.length} bytes, not ${KEY_BYTES}`)
    if (previous?.length && previous.length !== KEY_BYTES)
      throw new RangeError(`the previous keys have ${previous.length} bytes, not ${KEY_BYTES}`)
  },
})

export interface TicketKeyOptions {
  /**
   * Servers that share keys under one name resume each other's sessions; default `default`. A resumed session skips the check of client certificates:
   * a server that asks for client certificates must have its own name.
   */
  name?: string | undefined
  /** Interval in milliseconds at which the serving process creates new keys; default 12 hours. */
  rotateEvery?: number | undefined
  logger?: Logger | undefined
}

const OPTIONS = map({
  name: optional(
    predicate<string>(
      '1 to 128 visible characters',
      value => typeof value === 'string' && /^[\x21-\x7e]{1,128}$/.test(value),
    ),
    'default',
  ),
  rotateEvery: optional(milliseconds(1), 12 * HOUR),
  logger: optional(logger, SILENT),
} satisfies ShapeOf<TicketKeyOptions>)

/**
 * The keys that encrypt TLS session tickets. The state stores them: the first process creates them, later processes use the same keys, and the serving
 * process rotates them, unless it is a follower. A process has keys even before it may write to the state.
 */
export class TicketKeys {
  readonly name: string
  readonly rotateEvery: number
  readonly #member: Member
  readonly #section: Section<StoredKeys>
  readonly #logger: Logger
  readonly #listeners = new Set<(keys: Buffer) => void>()
  readonly #unsubscribe: () => void
  readonly #stop = () => this.stop()
  #current: StoredKeys
  #timer: NodeJS.Timeout | undefined
  #stopped = false

  /** Throws ERR_FDB_OPTION, and ERR_FDB_SCHEMA if this version cannot read the section of the state. */
  constructor(member: Member, options: TicketKeyOptions = {}) {
    if (typeof (member as Partial<Member> | undefined)?.section !== 'function')
      throw wrongOption('member', member, 'the Member that join() resolves with')
    const { name, rotateEvery, logger } = checkOptions('shareTicketKeys()', options, OPTIONS)
    this.name = name
    this.rotateEvery = rotateEvery
    this.#member = member
    this.#logger = logger
    this.#section = member.section(TICKET_KEYS, ticketKeysSection)
    const stored = this.#readStored()
    this.#current = stored ?? this.#createKeys()
    // This process already uses its new keys; the state gets them when this process may write.
    if (stored === null) this.#putFirst().catch(error => this.#logWriteFailure(error))
    this.#unsubscribe = this.#section.onChange(({ key, op }) => {
      if (op === 'put' && key === name) this.#applyStored()
    })
    member.once('retired', this.#stop)
    this.#rotateWhenDue()
  }

  /** Returns a copy of the keys that encrypt new tickets. */
  get current(): Buffer {
    return Buffer.from(this.#current.keys)
  }

  /** Returns a copy of the keys before the last rotation, which still decrypt tickets, or null if there are none. */
  get previous(): Buffer | null {
    const { previous } = this.#current
    return previous?.length ? Buffer.from(previous) : null
  }

  get createdAt(): Date {
    return new Date(this.#current.created)
  }

  /** Calls `listener` with the new keys whenever they change. Returns a function that removes the listener. */
  onChange(listener: (keys: Buffer) => void): () => void {
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }

  /**
   * Creates new keys now. Sessions of the current keys can still be resumed; sessions of the previous keys need a full handshake. Rotate twice if the
   * keys have leaked. Rejects if the state cannot be changed.
   */
  async rotate(): Promise<void> {
    const create = (stored?: StoredKeys) => this.#createKeys((stored ?? this.#current).keys)
    if (this.#readStored() === null) await this.#section.put(this.name, create())
    // The stored keys may be newer than those of this process, which perhaps has not heard yet that another one serves.
    else await this.#section.update(this.name, create)
  }

  /** Stops rotating and following the keys. Called automatically when the member has retired. */
  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
    this.#unsubscribe()
    this.#member.off('retired', this.#stop)
    this.#listeners.clear()
  }

  /** Returns null if the state has no keys, or if this version cannot read them. */
  #readStored(): StoredKeys | null {
    try {
      return this.#section.get(this.name) ?? null
    } catch (error) {
      if (!FdbError.is(error) || error.code !== 'ERR_FDB_STATE_VALUE') throw error
      this.#logger.warn(
        { err: error, name: this.name },
        'the ticket keys in the state cannot be used: this process uses its own',
      )
      return null
    }
  }

  #createKeys(previous: Uint8Array = NONE): StoredKeys {
    const keys = nodeCrypto().randomBytes(KEY_BYTES)
    return fdbroker.tls.TicketKeys.create({
      keys,
      previous,
      created: Date.now(),
      generation: this.#member.generation,
    })
  }

  /** Writes the first keys. A follower does not overwrite keys that another process has just written to the followed state. */
  async #putFirst(): Promise<void> {
    if (this.#member.follows === null) await this.#section.put(this.name, this.#current)
    else await this.#section.update(this.name, keys => keys ?? this.#current)
  }

  /** Uses new keys only when they are in the state's log, so that all processes use the same keys. */
  #applyStored(): void {
    const stored = this.#readStored()
    if (stored === null) return
    this.#current = stored
    for (const listener of this.#listeners) listener(this.current)
    this.#rotateWhenDue()
  }

  #rotateWhenDue(): void {
    clearTimeout(this.#timer)
    if (this.#stopped) return
    // The absolute value: if the clock was set back, the keys must not live longer.
    const age = Math.abs(Date.now() - this.#current.created)
    const left = this.rotateEvery - age
    this.#timer = setTimeout(() => this.#onRotationDue(), Math.max(1, left)).unref()
  }

  #onRotationDue(): void {
    if (this.#member.phase === 'serving' && this.#member.follows === null) {
      this.rotate().catch(error => this.#logWriteFailure(error))
    }
    // Checks again later: the process that must rotate the keys may not have done it.
    this.#timer = setTimeout(() => this.#rotateWhenDue(), Math.min(this.rotateEvery, LOOK_AGAIN_MS)).unref()
  }

  #logWriteFailure(error: unknown): void {
    this.#logger.debug({ err: error, name: this.name }, 'new ticket keys were not written to the state')
  }
}
