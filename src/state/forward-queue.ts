import { Backoff, type BackoffBounds } from '../base/backoff.js'
import { OWN_INSTANCE } from '../base/own-instance.js'
import { FdbError } from '../errors.js'
import type { LogCore } from './core.js'
import {
  type Answer,
  type ForwardedWrite,
  markOf,
  tooLargeError,
  unknownOutcomeError,
} from './forwarded-write.js'
import { DEFAULT_LIMITS, mostBodyBytes } from './limits.js'
import { encodeSchema } from './records.js'
import type { Replay } from './replay.js'
import { Slice } from './time-slices.js'
import type { PendingWrite, UpdateResult } from './write-queue.js'

const MOST_IN_FLIGHT = 256
const MOST_IN_FLIGHT_BYTES = 256 * 1024
/** Interval of the check for changes that timed out or whose records this process can read by now. */
const POLL_MS = 20
/** How long a change that the serving process has made waits until its record is readable here. If that takes longer, a snapshot has probably replaced the record. */
const VIEW_MS = 2_000

/** Delays of an update whose conflict this process cannot see: it has not read so far as the process that writes, or has read nothing new. */
const CONFLICT: BackoffBounds = { firstMs: 100, longestMs: 2_000 }

/** Counts the request ids that this process has created, for all its logs. */
let requestIds = 0

/** Sends changes to the process that may write. */
export interface WriteSender {
  /** Sends one change; the answers arrive at {@link ForwardQueue.onAnswer} in any order. Must not throw. */
  send(number: number, write: ForwardedWrite): void
}

export interface ForwardingOptions {
  /** A change without an answer is rejected after this time. */
  readonly timeoutMs: number
  /** The error for changes that cannot be forwarded. */
  readonly refusal: FdbError
}

interface InFlight {
  readonly number: number
  /** How far this process had read the log when it sent the change. */
  readonly readTo: number
  readonly bytes: number
  readonly reads: readonly string[]
  answer: Answer | null
  answeredAt: number
}

/**
 * Forwards queued changes to the process that writes, in order; that process makes each of them once. A change stays in the queue until this process
 * can read its record, or writes again.
 */
export class ForwardQueue {
  readonly #core: LogCore
  readonly #replay: Replay
  readonly #options: ForwardingOptions
  readonly #inFlight = new Map<PendingWrite, InFlight>()
  /** Entries that the updates in flight have read: another update that reads them would conflict. */
  readonly #reads = new Set<string>()
  /** The next update, if it must wait: its function has read an entry of {@link #reads}, or has thrown. */
  #blocked: { readonly write: PendingWrite; readonly reads: readonly string[] } | null = null
  /** The first change, if it had a conflict: it runs again when the log is read to `sequence`, or after a delay. */
  #conflict: { readonly write: PendingWrite; readonly sequence: number; readonly until: number } | null = null
  readonly #conflicts = new Backoff(CONFLICT)
  readonly #startedAt = performance.now()
  /** Everything that arrived up to this time (performance.now()) has been read. */
  #heardAt = Number.NEGATIVE_INFINITY
  #hearing = false
  #writeSender: WriteSender | null = null
  #refused = false
  #lastNumber = 0
  #bytes = 0
  #running = false
  #woken = false
  #stopped = false
  #timer: NodeJS.Timeout | undefined

  constructor(core: LogCore, replay: Replay, options: ForwardingOptions) {
    this.#core = core
    this.#replay = replay
    this.#options = options
  }

  /** The error for new changes, or null if they may be queued. */
  get refusal(): FdbError | null {
    return this.#refused ? this.#options.refusal : null
  }

  /** Connects to the process that may write, and sends the whole queue again. */
  connect(writeSender: WriteSender): void {
    this.#refused = false
    this.#writeSender = writeSender
    this.#resetInFlight()
    this.wake()
  }

  /** The connection has ended: changes in flight are sent again over the next one. */
  disconnect(): void {
    this.#writeSender = null
    this.#resetInFlight()
    this.wake()
  }

  /** The serving process accepts no forwarded changes: rejects the queued ones, except those that were sent and may have been made. */
  refuse(): void {
    if (this.#stopped) return
    this.#writeSender = null
    this.#resetInFlight()
    this.#refused = true
    const { queue, sliceMs } = this.#core
    void queue.reject(
      ({ sent = false }) => !sent,
      () => this.#options.refusal,
      sliceMs,
    )
    this.wake()
  }

  onAnswer(number: number, answer: Answer): void {
    for (const [write, flight] of this.#inFlight) {
      if (flight.number !== number || flight.answer !== null) continue
      if (answer.outcome === 'applied' && write.durability) write.durability.done = true
      flight.answer = answer
      flight.answeredAt = performance.now()
      this.wake()
      return
    }
  }

  /** Continues forwarding after a change was queued or new records were read. */
  wake(): void {
    this.#woken = true
    if (!this.#running && !this.#stopped) void this.#run()
  }

  /** Stops forwarding, because this process writes again or never will. The changes stay in the queue, with their request ids. */
  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
    this.#resetInFlight()
  }

  #resetInFlight(): void {
    this.#inFlight.clear()
    this.#reads.clear()
    this.#bytes = 0
  }

  async #run(): Promise<void> {
    this.#running = true
    const slice = new Slice(this.#core.sliceMs)
    // Changes of one turn are sent together.
    await null
    while (this.#woken && !this.#stopped) {
      this.#woken = false
      this.#replay.follow()
      // Settles before each change that it sends: between two slices this process may have read a change that it would send again.
      while (!this.#stopped && (this.#settleFirst() || this.#sendNext())) await slice.passed()
    }
    this.#running = false
    clearTimeout(this.#timer)
    if (!this.#stopped && this.#core.queue.length > 0) this.#timer = setTimeout(() => this.wake(), POLL_MS)
  }

  /** Settles the first change if possible. Returns false if it must wait. */
  #settleFirst(): boolean {
    const { queue, store } = this.#core
    const write = queue.head
    if (write === undefined) return false
    const flight = this.#inFlight.get(write)
    const answer = flight?.answer ?? null
    const inView = write.request !== '' && store.requests.get(write.request) !== undefined
    if (inView && (flight === undefined || answer !== null)) {
      this.#settle(write)
      write.resolve(answer?.outcome === 'applied' && write.readResult ? answer.existed : write.outcome)
      return true
    }
    switch (answer?.outcome) {
      case 'applied': {
        // An update without changes appends no record: the answer only confirms that the entries it read are unchanged.
        const confirmed = write.makeUpdate !== undefined && flight!.bytes === 0
        if (!confirmed && performance.now() - flight!.answeredAt < VIEW_MS) break
        if (!confirmed)
          this.#core.warn(
            { sequence: answer.sequence },
            'the serving process made a forwarded change, but this process cannot read it',
          )
        this.#settle(write)
        write.resolve(write.readResult ? answer.existed : write.outcome)
        return true
      }
      case 'refused':
        this.#settle(write)
        write.reject(answer.error)
        return true
      case 'conflict':
        // Runs the update again, on newer state. No other update of these entries is in flight.
        this.#conflict = {
          write,
          sequence: Math.max(answer.sequence, flight!.readTo + 1),
          until: performance.now() + this.#conflicts.next(),
        }
        this.#dropInFlight(write)
        return false
      case 'again':
        // The connected process has no right to write: wait for connect() with the process that has it.
        this.#writeSender = null
        this.#resetInFlight()
        return false
    }
    return this.#settleLate(write, inView)
  }

  /**
   * Settles the change if it has timed out, and returns whether it did. If this process was stopped, the answer may have arrived: it is read first. A change
   * that this process has found in the log was made.
   */
  #settleLate(write: PendingWrite, inView: boolean): boolean {
    const { timeoutMs, refusal } = this.#options
    const dueAt = Math.max(write.queuedAt, this.#startedAt) + timeoutMs
    if (performance.now() < dueAt) return false
    if (this.#heardAt < dueAt) {
      this.#hear()
      return false
    }
    this.#settle(write)
    const reason = `the serving process did not answer within ${timeoutMs} ms`
    if (inView) write.resolve(write.outcome)
    else write.reject(write.sent ? unknownOutcomeError(reason, write.request) : refusal)
    return true
  }

  /** Lets the event loop read what has arrived. */
  #hear(): void {
    if (this.#hearing) return
    this.#hearing = true
    const at = performance.now()
    // A turn of the event loop runs timers, then reads sockets, then runs immediates. This may be called while it reads, so a whole further turn follows.
    setImmediate(() =>
      setImmediate(() => {
        this.#hearing = false
        this.#heardAt = at
        this.wake()
      }),
    )
  }

  /** Sends the first change that is not in flight. Returns false if there is none or it must wait. */
  #sendNext(): boolean {
    const { queue } = this.#core
    const writeSender = this.#writeSender
    if (writeSender === null) return false
    const { head } = queue
    // After a conflict the head of the queue is not in flight, although later updates are: send it first.
    const sent = head !== undefined && this.#inFlight.has(head) ? this.#inFlight.size : 0
    const write = queue.at(sent)
    if (write === undefined || sent >= MOST_IN_FLIGHT || (sent > 0 && this.#bytes >= MOST_IN_FLIGHT_BYTES))
      return false
    if (sent > 0 && this.#mustWait(write, queue.at(sent - 1)!)) return false
    if (this.#waitsForView(write)) return false
    const { waitingBytes } = this.#core.limits
    let forwarded: Omit<ForwardedWrite, 'request'>
    let reads: readonly string[]
    try {
      if (write.bytes > waitingBytes) throw tooLargeError(write.bytes, waitingBytes)
      forwarded = this.#encodeWrite(write)
      reads = forwarded.reads.map(({ section, key }) => `${section}\0${key}`)
    } catch (error) {
      // An update whose function throws runs again when it is first in the queue: after the earlier changes it may succeed.
      this.#blocked = { write, reads: [] }
      if (sent > 0) return false
      this.#settle(write)
      write.reject(error)
      return true
    }
    if (sent > 0 && write.makeUpdate !== undefined && this.#areRead(reads)) {
      this.#blocked = { write, reads }
      return false
    }
    if (forwarded.parts.length === 0 && forwarded.reads.length === 0 && !forwarded.durable) {
      if (sent > 0) return false
      this.#settle(write)
      write.resolve(write.outcome)
      return true
    }
    if (write.request === '') {
      write.request = `${OWN_INSTANCE}.${(++requestIds).toString(36)}`
      write.prints = [0]
    }
    let bytes = 0
    for (const part of forwarded.parts) bytes += part.length
    const number = ++this.#lastNumber
    const readTo = this.#core.history.sequence
    this.#inFlight.set(write, { number, readTo, bytes, reads, answer: null, answeredAt: 0 })
    for (const read of reads) this.#reads.add(read)
    this.#bytes += bytes
    write.sent = true
    writeSender.send(number, { request: write.request, ...forwarded })
    return true
  }

  /**
   * Whether `write` must wait until `before` is settled. Two updates wait for each other only if they read the same entries, because the writing
   * process checks the entries that an update has read. An update and a change of another kind always wait for each other.
   */
  #mustWait(write: PendingWrite, before: PendingWrite): boolean {
    if (write.makeUpdate === undefined) return before.makeUpdate !== undefined
    return (
      before.makeUpdate === undefined ||
      (this.#blocked?.write === write && this.#areRead(this.#blocked.reads))
    )
  }

  /** Whether `write` had a conflict with a change that this process has probably not read yet. */
  #waitsForView(write: PendingWrite): boolean {
    const conflict = this.#conflict
    if (conflict?.write !== write) return false
    const isRead = this.#core.history.sequence >= conflict.sequence
    if (!isRead && performance.now() < conflict.until) return true
    if (isRead) this.#conflicts.reset()
    this.#conflict = null
    return false
  }

  #areRead(reads: readonly string[]): boolean {
    return reads.length === 0 || reads.some(read => this.#reads.has(read))
  }

  #encodeWrite(write: PendingWrite): Omit<ForwardedWrite, 'request'> {
    const { store } = this.#core
    const { makeUpdate } = write
    const { sections, parts, reads, result } = makeUpdate
      ? makeUpdate()
      : { ...write, reads: [], result: undefined }
    checkForwardable({ parts, reads })
    if (makeUpdate) write.outcome = result
    const schemas = sections.flatMap(section => section.schemaToWrite ?? [])
    return {
      ...(write.durability?.needed && { durable: true }),
      parts: schemas.length > 0 ? [...schemas.map(encodeSchema), ...parts] : parts,
      reads: reads.map(({ section, key }) => ({
        section: section.name,
        key,
        mark: markOf(store, section, key),
      })),
    }
  }

  #settle(write: PendingWrite): void {
    if (this.#conflict?.write === write) {
      this.#conflict = null
      this.#conflicts.reset()
    }
    this.#dropInFlight(write)
    this.#core.queue.remove(1)
  }

  #dropInFlight(write: PendingWrite): void {
    const flight = this.#inFlight.get(write)
    if (flight === undefined) return
    this.#bytes -= flight.bytes
    this.#inFlight.delete(write)
    for (const read of flight.reads) this.#reads.delete(read)
  }
}

/** Maximum bytes of a part. A part must fit into one message, which has at most 16 MiB. */
const MOST_PART_BYTES = mostBodyBytes(DEFAULT_LIMITS)
/** All reads of an update are in one message, which has at most 32,768 fields. */
const MOST_READS = 32_000
const MOST_READ_BYTES = 8 * 1024 * 1024
/** Bytes of a read in the message, besides section name and key. */
const READ_BYTES = 32

/** Throws ERR_FDB_STATE_LIMIT for a change that fits in no message. */
function checkForwardable({ parts, reads }: Pick<UpdateResult, 'parts' | 'reads'>): void {
  for (const { length } of parts)
    if (length > MOST_PART_BYTES) throw notForwardable('has', length, MOST_PART_BYTES, 'bytes in one record')
  if (reads.length > MOST_READS) throw notForwardable('reads', reads.length, MOST_READS, 'entries')
  let bytes = 0
  for (const { section, key } of reads)
    bytes += Buffer.byteLength(section.name) + Buffer.byteLength(key) + READ_BYTES
  if (bytes > MOST_READ_BYTES)
    throw notForwardable('reads entries with', bytes, MOST_READ_BYTES, 'bytes of keys')
}

function notForwardable(verb: string, got: number, most: number, of: string): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_LIMIT',
    `a change that ${verb} ${got} ${of} cannot be forwarded to the serving process: the limit is ${most}; split it, or make it in the serving process`,
    { details: { limit: 'message', most, got } },
  )
}
