import { channel } from 'node:diagnostics_channel'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from '../base/logger.js'
import type { OwnedFd } from '../kernel/index.js'
import type { BundleItem } from '../wire/bundle.js'
import { EventFile } from './event-file.js'
import { type EventFacts, type EventPage, type EventType, KEPT_EVENTS, type ServiceEvent } from './events.js'

/** The most events of a page. */
const PAGE_EVENTS = 250
/** How often a follower looks for events that other processes have written. */
const LOOK_MS = 100
/** How often events that could not be written are tried again. */
const RETRY_MS = 1_000

const diagnostics = channel('fd-broker:event')

/** The events that a service records in this process, and all that are in its file. A reader never waits for a writer, nor a writer for a reader. */
export class EventLog {
  readonly #logger: Logger
  readonly #origin: Pick<ServiceEvent, 'service' | 'generation'>
  readonly #file: EventFile
  #closed = false
  #followers = 0
  /** The events that could not be written, because the disk is full. The oldest are dropped first. */
  readonly #waiting: Omit<ServiceEvent, 'number'>[] = []
  #dropped = 0
  #retry: NodeJS.Timeout | null = null
  /** Called when the file is there. */
  created: () => void = () => {}
  /** Called with each event that this log has recorded. */
  recorded: (event: ServiceEvent) => void = () => {}

  constructor(
    logger: Logger,
    { service, generation }: Pick<ServiceEvent, 'service' | 'generation'>,
    file: EventFile = new EventFile(),
  ) {
    this.#logger = logger
    // Further facts of a caller's record would not fit into the file.
    this.#origin = { service, generation }
    this.#file = file
    file.join(this)
  }

  /** The file, for another log of this process. */
  get file(): EventFile {
    return this.#file
  }

  /** Continues the events of the process that has sent the file, unless this log has one. Owns the descriptor. */
  adopt(fd: OwnedFd): void {
    this.#file.adopt(fd)
  }

  /** As {@link items}, with a file in any case: the first version counts what its daemon records. */
  offered(): BundleItem[] {
    try {
      this.#file.create()
    } catch {
      // The service continues without events.
    }
    return this.items()
  }

  /** Returns the file for the next version. Borrowed. */
  items(): BundleItem[] {
    const { fd } = this.#file
    return fd === null ? [] : [{ role: 'events', name: 'events', fd }]
  }

  /** The number of the next event. */
  get next(): number {
    return this.#file.count + 1
  }

  /**
   * Records an event, and publishes it in this process. Never throws: an event that cannot be written waits until it can, and is published with the
   * number that it has then if no other process records one before.
   */
  note(type: EventType, facts: EventFacts = {}): void {
    const event = { at: Date.now(), type, pid: process.pid, ...this.#origin, ...facts }
    if (!this.#closed) this.#file.whenOpen(() => this.#record(event))
  }

  #record(event: Omit<ServiceEvent, 'number'>): void {
    if (this.#closed) return
    this.#waiting.push(event)
    if (this.#waiting.length > KEPT_EVENTS) {
      this.#waiting.shift()
      this.#dropped++
    }
    const recorded: ServiceEvent = { number: this.#write(), ...event }
    if (diagnostics.hasSubscribers) diagnostics.publish(recorded)
    this.recorded(recorded)
  }

  /** Writes the events that wait, and returns the number of the last one. */
  #write(): number {
    try {
      let number = 0
      for (; this.#waiting.length > 0; this.#waiting.shift()) number = this.#file.append(this.#waiting[0]!)
      this.#stopRetrying()
      return number
    } catch (err) {
      if (this.#retry === null) {
        const { type } = this.#waiting[0]!
        this.#logger.warn({ err, type }, 'events cannot be written: they wait in this process until they can')
        this.#retry = setInterval(() => this.#write(), RETRY_MS).unref()
      }
      return this.#file.count + this.#waiting.length
    }
  }

  #stopRetrying(): void {
    if (this.#retry !== null) clearInterval(this.#retry)
    this.#retry = null
  }

  /** Returns events from the number `from`, or from the oldest one that is kept. */
  read(from: number): EventPage {
    const { count, id } = this.#file
    const first = Math.max(1, count - KEPT_EVENTS + 1)
    const begin = Math.min(Math.max(from, first), count + 1)
    const end = Math.min(begin + PAGE_EVENTS, count + 1)
    return { log: id, events: this.#file.read(begin, end), first, next: end, end: end > count }
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
    if (this.#waiting.length > 0) this.#write()
    this.#stopRetrying()
    const count = this.#waiting.splice(0).length + this.#dropped
    this.#dropped = 0
    if (count > 0) this.#logger.warn({ count }, 'events that could not be written are lost')
    this.#file.leave(this)
  }
}
