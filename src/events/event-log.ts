import { channel } from 'node:diagnostics_channel'
import { setTimeout as sleep } from 'node:timers/promises'
import { jsonObject } from '../base/json.js'
import type { Logger } from '../base/logger.js'
import { append, appendFile, freeStart, type OwnedFd, readAt, sizeOf, statOf } from '../kernel/index.js'
import type { BundleItem } from '../wire/bundle.js'
import { type EventFacts, type EventPage, type EventType, KEPT_EVENTS, type ServiceEvent } from './events.js'

/** The size of each record. A page of memory has a whole number of them, so that no record is written in part. */
const RECORD_BYTES = 1024
/** Longer reasons are cut off, and further if the event does not fit into a record. */
const REASON_CHARACTERS = 600
/** Longer paths of executables are omitted. */
const PATH_BYTES = 255
/** The most events of a page. */
const PAGE_EVENTS = 250
/** The memory of old events is freed when so many events are written. */
const FREED_EVERY = 64
/** How often a follower looks for events that other processes have written. */
const LOOK_MS = 100

const diagnostics = channel('fd-broker:event')

/**
 * The events of a service, in a memory file that each version hands to the next one. Each event is one record of a fixed size, which the kernel
 * appends: its place in the file is its number, whichever process writes it. A reader never waits for a writer, nor a writer for a reader.
 */
export class EventLog {
  readonly #logger: Logger
  readonly #generation: number
  readonly #creates: boolean
  #fd: OwnedFd | null = null
  #closed = false
  #followers = 0
  /** Distinguishes the records of this process that are otherwise equal. */
  #written = 0
  #failed = false
  /** Called when this log gets its file. */
  created: () => void = () => {}
  /** Called with each event that this process has recorded. */
  recorded: (event: ServiceEvent) => void = () => {}

  /** `creates`: this process decides about handoffs, and so begins the events of a service. Another one only continues those that it has adopted. */
  constructor(logger: Logger, generation: number, { creates = true } = {}) {
    this.#logger = logger
    this.#generation = generation
    this.#creates = creates
  }

  /** Continues the events of the process that has sent the file, unless this log has one. Owns the descriptor. */
  adopt(fd: OwnedFd): void {
    if (this.#fd !== null || this.#closed) {
      fd.close()
      return
    }
    this.#fd = fd
    this.created()
  }

  /** Returns the file for the next version. Borrowed. */
  items(): BundleItem[] {
    return this.#fd === null ? [] : [{ role: 'events', name: 'events', fd: this.#fd }]
  }

  /** The number of the next event. */
  get next(): number {
    return this.#fd === null ? 1 : this.#count(this.#fd) + 1
  }

  /** Records an event, and publishes it in this process. Never throws: an event that cannot be written is logged, and gets no number. */
  note(type: EventType, facts: EventFacts = {}): void {
    if (this.#closed || (this.#fd === null && !this.#creates)) return
    const event = { at: Date.now(), type, pid: process.pid, generation: this.#generation, ...facts }
    try {
      if (this.#fd === null) this.adopt(appendFile('fdb-events', 'the events of the service'))
      const number = this.#append(this.#fd!, event)
      const recorded: ServiceEvent = { number, ...event }
      if (diagnostics.hasSubscribers) diagnostics.publish(recorded)
      this.recorded(recorded)
    } catch (err) {
      if (!this.#failed) this.#logger.warn({ err, type }, 'events cannot be recorded; the service continues')
      this.#failed = true
    }
  }

  /** Returns events from the number `from`, or from the oldest one that is kept. */
  read(from: number): EventPage {
    if (this.#fd === null) return { log: '', events: [], first: 1, next: 1, end: true }
    const count = this.#count(this.#fd)
    const first = Math.max(1, count - KEPT_EVENTS + 1)
    const begin = Math.min(Math.max(from, first), count + 1)
    const end = Math.min(begin + PAGE_EVENTS, count + 1)
    const log = String(statOf(this.#fd).ino)
    return { log, events: this.#records(this.#fd, begin, end), first, next: end, end: end > count }
  }

  /** Returns the events from the number `from` as they happen, until `signal` aborts or this process leaves the service. */
  async *follow(from: number, signal?: AbortSignal): AsyncGenerator<ServiceEvent, void, undefined> {
    let at = from
    this.#followers++
    try {
      while (signal?.aborted !== true) {
        const wasClosed = this.#closed
        const { events, next, end } = this.read(at)
        yield* events
        at = Math.max(at, next)
        if (!end) continue
        if (wasClosed) return
        await sleep(LOOK_MS, undefined, { signal, ref: false }).catch(() => {})
      }
    } finally {
      this.#followers--
      this.#release()
    }
  }

  close(): void {
    this.#closed = true
    this.#release()
  }

  /** Followers read the last events of this process. */
  #release(): void {
    if (!this.#closed || this.#followers > 0) return
    this.#fd?.close()
    this.#fd = null
  }

  #count(fd: OwnedFd): number {
    return Math.floor(sizeOf(fd) / RECORD_BYTES)
  }

  /** Returns the number of the event. */
  #append(fd: OwnedFd, event: Omit<ServiceEvent, 'number'>): number {
    const before = this.#count(fd)
    const text = textOf({ ...event, nth: ++this.#written })
    const record = Buffer.alloc(RECORD_BYTES, ' ')
    record[RECORD_BYTES - 1] = 10
    record.write(text, 0, RECORD_BYTES - 1)
    const written = append(fd, record)
    if (written < RECORD_BYTES) throw new Error(`no memory for the ${RECORD_BYTES} bytes of an event`)
    const number = this.#find(fd, record, before)
    if (number % FREED_EVERY === 0 && number > KEPT_EVENTS)
      freeStart(fd, (number - KEPT_EVENTS) * RECORD_BYTES)
    return number
  }

  /** Another process may have written between: finds the place of this process's record. */
  #find(fd: OwnedFd, record: Buffer, before: number): number {
    const found = Buffer.alloc(RECORD_BYTES)
    const count = this.#count(fd)
    for (let at = before; at < count; at++) {
      readAt(fd, found, 0, RECORD_BYTES, at * RECORD_BYTES)
      if (found.equals(record)) return at + 1
    }
    return count
  }

  #records(fd: OwnedFd, begin: number, end: number): ServiceEvent[] {
    const bytes = Buffer.alloc((end - begin) * RECORD_BYTES)
    readAt(fd, bytes, 0, bytes.length, (begin - 1) * RECORD_BYTES)
    const events: ServiceEvent[] = []
    for (let number = begin; number < end; number++) {
      const at = (number - begin) * RECORD_BYTES
      const record = jsonObject(bytes.toString('utf8', at, at + RECORD_BYTES).trimEnd())
      if (record === undefined) continue
      const { nth: _nth, ...event } = record
      events.push({ number, ...event } as ServiceEvent)
    }
    return events
  }
}

/** Returns the event as JSON that fits into a record, if necessary with a shorter reason. */
function textOf({ reason, by, ...event }: Omit<ServiceEvent, 'number'> & { nth: number }): string {
  const { executable = '', ...ids } = by ?? {}
  const isShort = executable !== '' && Buffer.byteLength(executable) <= PATH_BYTES
  const requester = by && { by: { ...ids, ...(isShort && { executable }) } }
  for (let length = REASON_CHARACTERS; ; length = Math.floor(length / 2)) {
    const text = JSON.stringify({
      ...event,
      ...requester,
      ...(reason && { reason: reason.slice(0, length) }),
    })
    if (Buffer.byteLength(text) < RECORD_BYTES || length === 0) return text
  }
}
