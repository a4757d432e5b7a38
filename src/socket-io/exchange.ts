import { everyAfterReading, type Limit } from '../base/after-reading.js'
import { OWN_INSTANCE } from '../base/own-instance.js'
import { FdbError } from '../errors.js'
import { processMember } from '../member/joining/process-member.js'
import type { Member } from '../member/member.js'
import { msgpack } from '../state/codec.js'
import { defineSection, type SectionSchema } from '../state/schema.js'
import type { Section } from '../state/section.js'
import type { Packet } from './internals.js'
import type { Seen, SessionRecord } from './session-record.js'

/** A message of one process to the others about sessions that they may have. Another release may send other kinds. */
export type Message =
  | {
      readonly kind: 'cast'
      readonly namespace: string
      readonly packet: { readonly type: number; readonly data: unknown[]; readonly id?: number | undefined }
      readonly selected: SelectedRecord
    }
  /** Sockets that join or leave rooms, or are disconnected. */
  | {
      readonly kind: 'change'
      readonly namespace: string
      readonly selected: SelectedRecord
      readonly change: 'join' | 'leave' | 'disconnect'
      readonly rooms: readonly string[]
      readonly close: boolean
    }
  /** Encoded packets for a client. */
  | {
      readonly kind: 'out'
      readonly session: string
      readonly packets: (string | Uint8Array)[]
      readonly compress: boolean
      readonly volatile: boolean
    }
  /** A payload of a client that polls, or a packet of one. */
  | { readonly kind: 'in'; readonly session: string; readonly payload: string }
  | { readonly kind: 'packet'; readonly session: string; readonly packet: Packet }
  | { readonly kind: 'end'; readonly session: string }
  | {
      readonly kind: 'ack'
      readonly namespace: string
      readonly socket: string
      readonly id: number
      readonly args: unknown[]
    }

export interface SelectedRecord {
  readonly rooms: readonly string[]
  readonly except: readonly string[]
  readonly volatile: boolean
  readonly compress: boolean
}

export interface Numbered {
  readonly origin: string
  readonly number: number
  readonly message: Message
}

type Entry = Numbered | SessionRecord | { readonly present: true }

/** Keys of the section begin with these letters. */
const MESSAGE = 'm'
const SESSION = 's/'
const PROCESS = 'p/'

/** The interval at which a process that drains reads what others have written, in milliseconds. */
const READ_MS = 10
/**
 * The interval at which a process that drains shows that it lives, and the silence after which it does not. A process that serves is silent: the others
 * keep it, because after a rollback it has the sessions.
 */
const SHOW_MS = 1_000
const SILENT_MS = 10_000
/** Messages that are kept for sessions that have not arrived yet. */
const MOST_KEPT = 20_000
const KEEP_MS = 60_000

let schema: SectionSchema<Entry> | undefined
/** The number of the last message of this process, of any server. */
let sent = 0

export interface ExchangeEvents {
  onMessage(numbered: Numbered): void
  /** A session waits in the state until a process takes it. Called while this process serves. */
  onSession(record: SessionRecord): void
  onServing(): void
  /** Called at intervals while this process drains. Returns whether it still has, or waits for, something. */
  onTurn(): boolean
  /** Whether a handler of this process has yet to answer an event of a client that has moved. */
  owes(): boolean
}

/** Exchanges messages and sessions with the other versions, in a section of the state. */
export class Exchange {
  readonly #name: string
  readonly #events: ExchangeEvents
  #section: Section<Entry> | null = null
  role: 'alone' | 'waiting' | 'serving' | 'draining' = 'alone'
  /** Other processes that may have sessions, and when they were last heard (performance.now()). */
  readonly #others = new Map<string, number>()
  readonly #seen: Seen = { [OWN_INSTANCE]: sent }
  readonly #kept: (Numbered & { readonly at: number })[] = []
  /** Changes of the section that wait for the end of the read that has found them. */
  readonly #changes: (() => void)[] = []
  #timer: NodeJS.Timeout | undefined
  #looks: Limit | undefined
  #shownAt = 0
  #shown = false
  #closed = false
  /** Warnings from before join(), which gives the logger. */
  readonly #unsaid: [error: unknown, message: string][] = []
  readonly #leave: (() => void)[] = []

  constructor(name: string, events: ExchangeEvents) {
    this.#name = name
    this.#events = events
    const own = processMember()
    if (own.member !== null) this.#join(own.member)
    else {
      const waiter = { joined: (member: Member) => this.#join(member) }
      own.waiting.add(waiter)
      this.#leave.push(() => own.waiting.delete(waiter))
    }
  }

  /** The server of socket.io has closed: another one of this name may follow. */
  close(): void {
    this.#closed = true
    this.#stopTimers()
    for (const leave of this.#leave.splice(0)) leave()
    if (this.#shown) this.#section?.delete(PROCESS + OWN_INSTANCE).catch(() => {})
    this.#section = null
    this.role = 'alone'
  }

  #join(member: Member): void {
    schema ??= defineSection({ version: 1, codec: msgpack<Entry>(), secret: true })
    const section = member.section(this.#name, schema)
    this.#section = section
    this.role = 'waiting'
    for (const [error, message] of this.#unsaid.splice(0)) this.warn(error, message)
    const stop = section.onChange(({ op, key, value }) => {
      if (op === 'put' && value !== undefined) this.#later(() => this.#changed(key, value))
      else if (op === 'delete' && key.startsWith(PROCESS)) {
        // The last sessions of that process may be on their way, and need the messages of the next seconds.
        const process = key.slice(PROCESS.length)
        this.#later(() => this.#others.has(process) && this.#hear(process))
      }
    })
    this.#leave.push(stop)
    this.#leave.push(member.draining.stayWhile(() => this.#events.owes()))
    member.whileServing(() => this.#serve(section))
    const drain = () => this.#drain(section)
    member.on('retiring', drain)
    this.#leave.push(() => void member.off('retiring', drain))
    void member.retired.then(() => this.#stopTimers())
  }

  #stopTimers(): void {
    clearInterval(this.#timer)
    this.#looks?.clear()
  }

  /** A listener of a section may not use it. */
  #later(work: () => void): void {
    this.#changes.push(work)
    if (this.#changes.length > 1) return
    queueMicrotask(() => {
      for (const next of this.#changes) {
        try {
          if (!this.#closed) next()
        } catch (error) {
          this.warn(error, 'a change of sessions of socket.io could not be made')
        }
      }
      this.#changes.length = 0
    })
  }

  #changed(key: string, value: Entry): void {
    if (key === MESSAGE) this.#receive(value as Numbered)
    else if (key.startsWith(SESSION)) {
      if (this.role === 'serving') this.#events.onSession(value as SessionRecord)
    } else if (key.startsWith(PROCESS)) this.#hear(key.slice(PROCESS.length))
  }

  #hear(process: string): void {
    if (process !== OWN_INSTANCE) this.#others.set(process, performance.now())
  }

  #receive(numbered: Numbered): void {
    const { origin, number } = numbered
    if (origin === OWN_INSTANCE) return
    this.#hear(origin)
    this.#seen[origin] = number
    this.#keep(numbered)
    this.#events.onMessage(numbered)
  }

  #keep(numbered: Numbered): void {
    const now = performance.now()
    const kept = this.#kept
    kept.push({ ...numbered, at: now })
    if (kept.length <= MOST_KEPT && kept[0]!.at > now - 2 * KEEP_MS) return
    const from = Math.max(
      kept.findIndex(({ at }) => at > now - KEEP_MS),
      kept.length - (MOST_KEPT * 9) / 10,
    )
    kept.splice(0, from)
  }

  #serve(section: Section<Entry>): void {
    if (this.#closed) return
    this.#stopTimers()
    this.role = 'serving'
    this.#looks = everyAfterReading(SHOW_MS, readUntil => this.#forgetSilent(section, readUntil), {
      unref: true,
    })
    this.#events.onServing()
    for (const [key, value] of [...section.entries({ invalid: () => {} })])
      if (key !== MESSAGE) this.#changed(key, value)
    this.#show(section)
  }

  #drain(section: Section<Entry>): void {
    this.role = 'draining'
    this.#stopTimers()
    this.#timer = setInterval(() => this.#turn(section), READ_MS).unref()
    this.#turn(section)
  }

  #turn(section: Section<Entry>): void {
    // Reads the changes of others.
    section.has(MESSAGE)
    if (this.#events.onTurn()) {
      if (!this.#shown || performance.now() - this.#shownAt >= SHOW_MS) this.#show(section)
    } else if (this.#shown && performance.now() - this.#shownAt >= SHOW_MS) {
      this.#shown = false
      section.delete(PROCESS + OWN_INSTANCE).catch(() => {})
    }
  }

  #show(section: Section<Entry>): void {
    this.#shown = true
    this.#shownAt = performance.now()
    // If it is lost, the next one is not.
    section.put(PROCESS + OWN_INSTANCE, { present: true }).catch(() => {})
  }

  /** Whether another process may have sessions. */
  get shared(): boolean {
    return this.role === 'draining' || this.#others.size > 0
  }

  #forgetSilent(section: Section<Entry>, readUntil: number): void {
    for (const [process, heard] of this.#others)
      if (readUntil - heard > SILENT_MS) {
        this.#others.delete(process)
        section.delete(PROCESS + process).catch(() => {})
      }
  }

  /** Resolves when the message is in the log. */
  async send(message: Message): Promise<void> {
    const section = this.#section
    if (section === null || !this.shared) return
    const numbered = { origin: OWN_INSTANCE, number: ++sent, message }
    this.#seen[OWN_INSTANCE] = sent
    this.#keep(numbered)
    try {
      await section.put(MESSAGE, numbered)
    } catch (error) {
      // The message waits until this process serves.
      if (FdbError.is(error) && error.code === 'ERR_FDB_NOT_READY') return
      this.warn(error, 'a message to the sockets of another process was lost')
    }
  }

  /** The messages that this process has received, and sent. */
  get seen(): Seen {
    return { ...this.#seen }
  }

  /** Returns the messages that a process with `seen` had not received. */
  unseen(seen: Seen): Numbered[] {
    return this.#kept.filter(({ origin, number }) => number > (seen[origin] ?? 0))
  }

  /** Gives a session to the process that serves. Rejects if it was not given. */
  async give(record: SessionRecord): Promise<void> {
    await this.#section!.put(SESSION + record.id, record)
  }

  /** The session is this process's own now. */
  taken(id: string): void {
    const section = this.#section
    if (section?.has(SESSION + id)) section.delete(SESSION + id).catch(() => {})
  }

  warn(error: unknown, message: string): void {
    if (this.#section !== null) this.#section.warn_(error, message)
    else if (!this.#closed) this.#unsaid.push([error, message])
  }
}
