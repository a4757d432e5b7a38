import { jsonObject } from '../base/json.js'
import { type Logger, SILENT } from '../base/logger.js'
import {
  append,
  appendFile,
  appendFileAt,
  freeStart,
  type OwnedFd,
  readAt,
  sizeOf,
  statOf,
  truncate,
} from '../kernel/index.js'
import { KEPT_EVENTS, type ServiceEvent } from './events.js'

/** The size of each record. A page of memory has a whole number of them, so that no record is written in part. */
const RECORD_BYTES = 1024
/** Longer reasons are cut off, and further if the event does not fit into a record. */
const REASON_CHARACTERS = 600
/** Longer paths of executables are omitted. */
const PATH_BYTES = 255
/** The memory of old events is freed when so many events are written. */
const FREED_EVERY = 64
const LABEL = 'the events of the service'

/** Returns the path of the events of a service with this control socket. `service`: one of several of a daemon. */
export function eventPath(control: string, service?: string): string {
  return `${control}${service === undefined ? '' : `.${encodeURIComponent(service)}`}.events`
}

interface EventFileOptions {
  /** This process decides about handoffs, and so begins the events of a service. Another one only continues those that it has adopted. */
  readonly creates?: boolean
  /** The path of the file, or null for one in memory. A file with a path stays after the last process of the service. */
  readonly path?: string | null
  readonly logger?: Pick<Logger, 'warn'>
}

/** A part of the process that records into a file. */
interface Writer {
  /** Called when the file is there. */
  created(): void
}

/**
 * The file of events, which each version hands to the next one, and which the workers of a service have in common. Each event is one record of
 * a fixed size, which the kernel appends: its place in the file is its number, whichever process writes it. The file is beside the control socket, in
 * memory if it cannot be there.
 */
export class EventFile {
  readonly #creates: boolean
  readonly #path: string | null
  readonly #logger: Pick<Logger, 'warn'>
  readonly #writers = new Set<Writer>()
  #fd: OwnedFd | null = null
  /** Distinguishes the records of this process that are otherwise equal. */
  #written = 0
  /** Events of this process that wait for {@link begin}; null if none need wait. */
  #late: (() => void)[] | null = null

  constructor({ creates = true, path = null, logger = SILENT }: EventFileOptions = {}) {
    this.#creates = creates
    this.#path = path
    this.#logger = logger
  }

  /** The file stays until the last writer has left. */
  join(writer: Writer): void {
    this.#writers.add(writer)
  }

  leave(writer: Writer): void {
    if (!this.#writers.delete(writer) || this.#writers.size > 0) return
    this.#fd?.close()
    this.#fd = null
  }

  /** Continues the events of the process that has sent the file, unless this one has a file. Owns the descriptor. */
  adopt(fd: OwnedFd): void {
    if (this.#fd === null && this.#writers.size > 0) this.#open(fd)
    else fd.close()
  }

  /** Borrowed; null before the first event. */
  get fd(): OwnedFd | null {
    return this.#fd
  }

  /** Distinguishes these events from those in another file; '' if there are none yet. */
  get id(): string {
    return this.#fd === null ? '' : String(statOf(this.#fd).ino)
  }

  get count(): number {
    return this.#fd === null ? 0 : Math.floor(sizeOf(this.#fd) / RECORD_BYTES)
  }

  /** Until {@link begin}, events wait for the file that other processes may bring. */
  hold(): void {
    if (this.#fd === null) this.#late ??= []
  }

  /** No process brings the file any more. */
  begin(): void {
    const late = this.#late ?? []
    this.#late = null
    for (const act of late) act()
  }

  /** Calls `act`, which appends an event, when this process may record it: now, later or never. */
  whenOpen(act: () => void): void {
    if (this.#late !== null) this.#late.push(act)
    else if (this.#creates || this.#fd !== null) act()
  }

  /** Creates the file, unless it is there or this process does not begin the events. Throws the system's error. */
  create(): void {
    if (this.#fd === null && this.#creates && this.#late === null && this.#writers.size > 0)
      this.#open(this.#openPath() ?? appendFile('fdb-events', LABEL))
  }

  /** Continues the events that an earlier process of the service has left. */
  #openPath(): OwnedFd | null {
    if (this.#path === null) return null
    try {
      const fd = appendFileAt(this.#path, LABEL)
      // A full disk may have taken a part of a record.
      if (sizeOf(fd) % RECORD_BYTES > 0) truncate(fd, sizeOf(fd) - (sizeOf(fd) % RECORD_BYTES))
      return fd
    } catch (err) {
      const path = this.#path
      this.#logger.warn({ err, path }, 'the events are in memory only, and end with the service')
      return null
    }
  }

  #open(fd: OwnedFd): void {
    this.#fd = fd
    for (const writer of this.#writers) writer.created()
    this.begin()
  }

  /** Returns the number of the event. Throws the system's error. */
  append(event: Omit<ServiceEvent, 'number'>): number {
    this.create()
    const fd = this.#fd!
    const before = this.count
    const text = textOf({ ...event, nth: ++this.#written })
    const record = Buffer.alloc(RECORD_BYTES, ' ')
    record[RECORD_BYTES - 1] = 10
    record.write(text, 0, RECORD_BYTES - 1)
    const written = append(fd, record)
    if (written < RECORD_BYTES) throw new Error(`no memory for the ${RECORD_BYTES} bytes of an event`)
    const number = this.#find(fd, record, before)
    if (number % FREED_EVERY === 0) freeBefore(fd, number - KEPT_EVENTS)
    return number
  }

  /** Another process may have written between: finds the place of this process's record. */
  #find(fd: OwnedFd, record: Buffer, before: number): number {
    const found = Buffer.alloc(RECORD_BYTES)
    const { count } = this
    for (let at = before; at < count; at++) {
      readAt(fd, found, 0, RECORD_BYTES, at * RECORD_BYTES)
      if (found.equals(record)) return at + 1
    }
    return count
  }

  /** Returns the events from the number `begin` to the one before `end`. */
  read(begin: number, end: number): ServiceEvent[] {
    if (this.#fd === null || begin >= end) return []
    const bytes = Buffer.alloc((end - begin) * RECORD_BYTES)
    readAt(this.#fd, bytes, 0, bytes.length, (begin - 1) * RECORD_BYTES)
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

/** Frees the memory of the first `count` records. Never throws: the event is recorded, and would be recorded again. */
function freeBefore(fd: OwnedFd, count: number): void {
  if (count <= 0) return
  try {
    freeStart(fd, count * RECORD_BYTES)
  } catch {
    // A file to which programs may only append (chattr +a) stays as long as it is.
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
