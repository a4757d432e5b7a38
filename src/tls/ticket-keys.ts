import { type Checks, checkOptions, milliseconds, predicate } from '../base/check-option.js'
import { nodeCrypto } from '../base/lazy.js'
import { checkLogger, type Logger, SILENT } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { Member } from '../member/member.js'
import { fdbroker } from '../proto/tls.js'
import { protobuf } from '../state/codec.js'
import { defineSection } from '../state/schema.js'
import type { Section } from '../state/section.js'

type StoredKeys = fdbroker.tls.TicketKeys

/** The state's section with the keys, one entry a name. */
export const TICKET_KEYS = 'ticketKeys'
/** The length that `tls.Server.setTicketKeys()` takes. */
const KEY_BYTES = 48
const NONE = new Uint8Array(0)
const HOUR = 3_600_000
/** A process that does not serve looks again so often whether it does. */
const LOOK_AGAIN_MS = 10_000

export const ticketKeysSection = defineSection<StoredKeys>({
  version: 1,
  codec: protobuf<StoredKeys, fdbroker.tls.TicketKeys.$Properties>(fdbroker.tls.TicketKeys),
  secret: true,
  validate: ({ keys, previous }) => {
    if (keys?.length !== KEY_BYTES) throw new RangeError(`${keys?.length} bytes, not ${KEY_BYTES}`)
    if (previous?.length && previous.length !== KEY_BYTES)
      throw new RangeError(`the previous ones have ${previous.length} bytes, not ${KEY_BYTES}`)
  },
})

export interface TicketKeyOptions {
  /**
   * Servers that share keys under one name resume each other's sessions; default `default`. A session proves what its
   * server asked for when it was made: give servers that ask for client certificates names of their own.
   */
  name?: string
  /** After so many milliseconds the process that serves makes new keys; default 12 hours. */
  rotateEvery?: number
  logger?: Logger
}

const OPTIONS: Checks<TicketKeyOptions> = {
  name: predicate(
    '1 to 128 visible characters',
    value => typeof value === 'string' && /^[\x21-\x7e]{1,128}$/.test(value),
  ),
  rotateEvery: milliseconds(1),
  logger: value => checkLogger(value as Logger),
}

/**
 * The keys that encrypt TLS session tickets, as state: made by the first process, the same in every later one, changed for
 * all of them by the one that serves (where several have one state, by the one that does not follow). They are known from the beginning, also in a process that may not write yet.
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

  /** Throws ERR_FDB_OPTION, and ERR_FDB_SCHEMA where this version may not read the state's keys. */
  constructor(member: Member, options: TicketKeyOptions = {}) {
    checkOptions('shareTicketKeys()', options, OPTIONS)
    const { name = 'default', rotateEvery = 12 * HOUR, logger = SILENT } = options
    this.name = name
    this.rotateEvery = rotateEvery
    this.#member = member
    this.#logger = logger
    this.#section = member.section(TICKET_KEYS, ticketKeysSection)
    const stored = this.#stored()
    this.#current = stored ?? this.#make()
    // A process that may not write yet uses them all the same: they are in the state when it serves.
    if (stored === null) this.#putFirst().catch(error => this.#notWritten(error))
    this.#unsubscribe = this.#section.onChange(({ key, op }) => {
      if (op === 'put' && key === name) this.#follow()
    })
    member.once('retired', this.#stop)
    this.#rotateWhenDue()
  }

  /** A copy; tickets are sealed with them. */
  get current(): Buffer {
    return Buffer.from(this.#current.keys)
  }

  /** A copy of those before them, which still open tickets until the next rotation; null: there were none. */
  get previous(): Buffer | null {
    const { previous } = this.#current
    return previous?.length ? Buffer.from(previous) : null
  }

  get createdAt(): Date {
    return new Date(this.#current.created)
  }

  /** Told the new keys whenever they change. Returns how to stop it. */
  onChange(listener: (keys: Buffer) => void): () => void {
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }

  /**
   * Makes new keys now. Sessions made before are still resumed, with the previous keys; those made before the last rotation
   * need a full handshake: after an accident rotate twice. Rejects as a change of the state does.
   */
  async rotate(): Promise<void> {
    await this.#put(this.#make(this.#current.keys))
  }

  /** The keys stay as they are; called by itself when the member has retired. */
  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
    this.#unsubscribe()
    this.#member.off('retired', this.#stop)
    this.#listeners.clear()
  }

  /** null: there are none, or none that can be read. */
  #stored(): StoredKeys | null {
    try {
      return this.#section.get(this.name) ?? null
    } catch (error) {
      if (!FdbError.is(error) || error.code !== 'ERR_FDB_STATE_VALUE') throw error
      this.#logger.warn({ err: error, name: this.name }, 'the ticket keys in the state cannot be used')
      return null
    }
  }

  #make(previous: Uint8Array = NONE): StoredKeys {
    const keys = nodeCrypto().randomBytes(KEY_BYTES)
    return fdbroker.tls.TicketKeys.create({
      keys,
      previous,
      created: Date.now(),
      generation: this.#member.generation,
    })
  }

  /** Where others have the same state one of them was first. */
  async #putFirst(): Promise<void> {
    if (this.#member.follows === null) await this.#put(this.#current)
    else await this.#section.update(this.name, keys => keys ?? this.#current)
  }

  #put(keys: StoredKeys): Promise<void> {
    return this.#section.put(this.name, keys)
  }

  /** They count once they are in the log: every reader of it has them too. */
  #follow(): void {
    const stored = this.#stored()
    if (stored === null) return
    this.#current = stored
    for (const listener of this.#listeners) listener(this.current)
    this.#rotateWhenDue()
  }

  #rotateWhenDue(): void {
    clearTimeout(this.#timer)
    if (this.#stopped) return
    // A clock that was set back must not make keys live longer.
    const age = Math.abs(Date.now() - this.#current.created)
    const left = this.rotateEvery - age
    this.#timer = setTimeout(() => this.#due(), Math.max(1, left))
    this.#timer.unref()
  }

  #due(): void {
    if (this.#member.phase === 'serving' && this.#member.follows === null) {
      this.rotate().catch(error => this.#notWritten(error))
    }
    // Another process does it, or it is tried again.
    this.#timer = setTimeout(() => this.#rotateWhenDue(), Math.min(this.rotateEvery, LOOK_AGAIN_MS))
    this.#timer.unref()
  }

  #notWritten(error: unknown): void {
    this.#logger.debug({ err: error, name: this.name }, 'new ticket keys were not written to the state')
  }
}
