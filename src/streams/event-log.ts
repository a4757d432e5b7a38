import { randomBytes } from 'node:crypto'
import type { Member } from '../member/member.js'
import { msgpack } from '../state/codec.js'
import { defineSection, type SectionSchema } from '../state/schema.js'
import type { Section } from '../state/section.js'

export interface ChannelEvent {
  readonly channel: string
  /** The name under which a client listens; absent: `message`. */
  readonly type?: string
  readonly data: string
}

interface Head {
  /** Distinguishes the numbers from those of a log that was lost. */
  readonly start: string
  /** The number of the last event. */
  readonly last: number
}

type Entry = Head | ChannelEvent

const HEAD = 'head'
/** The interval at which a process that drains reads the events of others, in milliseconds. */
const READ_MS = 20

/** One object for all sections. Defined by the first, because msgpack() loads a package. */
let schema: SectionSchema<Entry> | undefined

export interface EventLogOptions {
  /** The section's name. */
  readonly name: string
  /** Events that are kept. */
  readonly keep: number
  /** Called with the channel of new events, after a synchronous block of changes. `since`: the number of the last event before that block. */
  readonly added: (channel: string, since: number) => void
}

/** The last events of all channels, numbered: in a section of the state, or in the memory of a process without a member. */
export class EventLog {
  readonly #options: EventLogOptions
  readonly #member: Member | null
  readonly #section: Section<Entry> | null = null
  readonly #channels = new Map<string, Map<number, ChannelEvent>>()
  /** Channels by number of an event, in their order. */
  readonly #order = new Map<number, string>()
  #head: Head | null = null
  readonly #changed = new Set<string>()
  #told = 0
  #timer: NodeJS.Timeout | undefined

  constructor(options: EventLogOptions, member: Member | null) {
    this.#options = options
    this.#member = member
    if (member === null) {
      this.#head = newHead()
      return
    }
    schema ??= defineSection({ version: 1, codec: msgpack<Entry>(), secret: true, cache: 0 })
    const section = member.section(options.name, schema)
    this.#section = section
    this.#read(section)
    section.onChange(({ op, key, value }) => {
      if (op === 'clear') this.#forgetAll()
      else if (op === 'delete' || value === undefined) this.#forget(Number(key))
      else this.#put(key, value)
    })
    member.whileServing(() => this.#serve(section))
    member.on('retiring', () => this.#poll(section))
    void member.retired.then(() => clearInterval(this.#timer))
  }

  /** False for the memory of a process without a member. */
  get isInState(): boolean {
    return this.#section !== null
  }

  /** Null until the first event of the service, or until a process serves. */
  get start(): string | null {
    return this.#head?.start ?? null
  }

  /** The number of the last event of any channel. */
  get last(): number {
    return this.#head?.last ?? 0
  }

  /** Whether the number is one of this log, which may be older than a client: a machine that fails can lose the last changes of its file of the state. */
  reaches(number: number): boolean {
    // Reads the changes of others.
    if (number > this.last) this.#section?.has(HEAD)
    return number <= this.last
  }

  /** The number of the last event that was told by {@link EventLogOptions.added}. */
  get told(): number {
    return this.#told
  }

  /** The number of the last event that is not kept any more. */
  get floor(): number {
    for (const number of this.#order.keys()) return number - 1
    return this.last
  }

  /** The kept events of a channel, in order. */
  of(channel: string): ReadonlyMap<number, ChannelEvent> | undefined {
    return this.#channels.get(channel)
  }

  /** All kept events, in order. */
  *all(): Generator<ChannelEvent> {
    for (const [number, channel] of this.#order) yield this.#channels.get(channel)!.get(number)!
  }

  /** Resolves when the event is in the log. */
  async publish(event: ChannelEvent): Promise<void> {
    const { keep } = this.#options
    const section = this.#section
    if (section === null) {
      const { start, last } = this.#head!
      this.#put(HEAD, { start, last: last + 1 })
      this.#put(String(last + 1), event)
      this.#forget(last + 1 - keep)
      return
    }
    await this.#member!.update(state => {
      const { start, last } = (state.get(section, HEAD) as Head | undefined) ?? newHead()
      state.put(section, HEAD, { start, last: last + 1 })
      state.put(section, String(last + 1), event)
      const oldest = String(last + 1 - keep)
      if (state.has(section, oldest)) state.delete(section, oldest)
    })
  }

  warn(error: unknown, message: string): void {
    this.#section?.warn_(error, message)
  }

  #read(section: Section<Entry>): void {
    const events: [number, ChannelEvent][] = []
    for (const [key, value] of section.entries({ invalid: () => {} })) {
      if (key === HEAD) this.#head = value as Head
      else events.push([Number(key), value as ChannelEvent])
    }
    for (const [number, event] of events.sort(([one], [other]) => one - other)) this.#add(number, event)
  }

  #put(key: string, value: Entry): void {
    if (key === HEAD) this.#head = value as Head
    else this.#add(Number(key), value as ChannelEvent)
  }

  #add(number: number, event: ChannelEvent): void {
    const { channel } = event
    const known = this.#channels.get(channel)
    if (known === undefined) this.#channels.set(channel, new Map([[number, event]]))
    else known.set(number, event)
    this.#order.set(number, channel)
    this.#changed.add(channel)
    // A listener of a section may not use it.
    if (this.#changed.size === 1) queueMicrotask(() => this.#tell())
  }

  #tell(): void {
    const [changed, since] = [[...this.#changed], this.#told]
    this.#changed.clear()
    this.#told = this.last
    for (const channel of changed) this.#options.added(channel, since)
  }

  #forget(number: number): void {
    const channel = this.#order.get(number)
    if (channel === undefined) return
    this.#order.delete(number)
    const events = this.#channels.get(channel)!
    events.delete(number)
    if (events.size === 0) this.#channels.delete(channel)
  }

  #forgetAll(): void {
    this.#channels.clear()
    this.#order.clear()
    this.#head = null
  }

  #serve(section: Section<Entry>): void {
    clearInterval(this.#timer)
    const failed = (error: unknown) => this.warn(error, 'the log of events could not be prepared')
    // Clients get an id before the first event. A previous version may have kept more events.
    section.update(HEAD, head => (head === undefined ? newHead() : undefined)).catch(failed)
    const most = this.last - this.#options.keep
    for (const number of this.#order.keys()) {
      if (number > most) break
      section.delete(String(number)).catch(failed)
    }
  }

  #poll(section: Section<Entry>): void {
    clearInterval(this.#timer)
    // Reads the changes of others.
    this.#timer = setInterval(() => section.has(HEAD), READ_MS).unref()
  }
}

function newHead(): Head {
  return { start: randomBytes(5).toString('hex'), last: 0 }
}
