import { OWN_INSTANCE } from '../base/own-instance.js'
import { FdbError } from '../errors.js'
import type { LogCore } from './core.js'
import { type Answer, type ForwardedWrite, markOf, mayBeMade, tooLarge } from './forwarded-write.js'
import { DEFAULT_LIMITS, mostBodyBytes } from './limits.js'
import { encodeSchema } from './records.js'
import type { Replay } from './replay.js'
import { Slice } from './time-slices.js'
import type { PendingWrite, UpdateResult } from './write-queue.js'

const MOST_IN_FLIGHT = 256
const MOST_IN_FLIGHT_BYTES = 256 * 1024
/** Interval of the check for late changes, and for those that have come into view. */
const POLL_MS = 20
/** Longest wait for a change that was made: after it, its record was merged away. */
const VIEW_MS = 2_000

/** Numbers the ids of changes, for all logs of this process. */
let madeIds = 0

/** Sends to the process that may write. */
export interface WriteSender {
  /** {@link ForwardQueue.onAnswer} gets the answer, in any order. Must not throw. */
  send(number: number, write: ForwardedWrite): void
}

export interface ForwardingOptions {
  /** Milliseconds that a change waits for its answer. */
  readonly timeoutMs: number
  readonly refusal: FdbError
}

interface InFlight {
  readonly number: number
  readonly bytes: number
  readonly reads: readonly string[]
  answer: Answer | null
  answeredAt: number
}

/** Changes on their way to the writing process, in order, each made once. They stay in the queue until they are in view, or this process writes again. */
export class ForwardQueue {
  readonly #core: LogCore
  readonly #replay: Replay
  readonly #options: ForwardingOptions
  readonly #inFlight = new Map<PendingWrite, InFlight>()
  readonly #numbers = new Map<number, PendingWrite>()
  /** Entries that updates in flight have read: another update of one would conflict. */
  readonly #reads = new Set<string>()
  #held: { readonly write: PendingWrite; readonly reads: readonly string[] } | null = null
  readonly #startedAt = performance.now()
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

  /** Why changes cannot be forwarded; null: they wait. */
  get refusal(): FdbError | null {
    return this.#refused ? this.#options.refusal : null
  }

  /** Connects to the process that may write; the queue is sent from the start. */
  connect(writeSender: WriteSender): void {
    this.#refused = false
    this.#writeSender = writeSender
    this.#resetInFlight()
    this.wake()
  }

  /** The connection is gone: changes in flight are sent again over the next one. */
  disconnect(): void {
    this.#writeSender = null
    this.#resetInFlight()
    this.wake()
  }

  /** The serving process accepts no changes: waiting ones are rejected, except those that were sent and may have been made. */
  refuse(): void {
    if (this.#stopped) return
    this.#writeSender = null
    this.#resetInFlight()
    this.#refused = true
    void this.#core.queue.rejectUnsent(this.#options.refusal, this.#core.sliceMs)
    this.wake()
  }

  onAnswer(number: number, answer: Answer): void {
    const write = this.#numbers.get(number)
    const way = write && this.#inFlight.get(write)
    if (!way) return
    this.#numbers.delete(number)
    if (answer.outcome === 'applied' && write?.durability) write.durability.done = true
    way.answer = answer
    way.answeredAt = performance.now()
    this.wake()
  }

  /** A change was queued, or has come into view. */
  wake(): void {
    this.#woken = true
    if (!this.#running && !this.#stopped) void this.#run()
  }

  /** This process writes again, or never will: changes stay in the queue, with their ids. */
  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
    this.#resetInFlight()
  }

  #resetInFlight(): void {
    this.#inFlight.clear()
    this.#numbers.clear()
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
      while (!this.#stopped && this.#settleFirst()) await slice.passed()
      while (!this.#stopped && this.#sendNext()) await slice.passed()
    }
    this.#running = false
    clearTimeout(this.#timer)
    if (!this.#stopped && this.#core.queue.length > 0) this.#timer = setTimeout(() => this.wake(), POLL_MS)
  }

  /** False: the first change must wait. */
  #settleFirst(): boolean {
    const { queue, store } = this.#core
    const write = queue.head
    if (write === undefined) return false
    const way = this.#inFlight.get(write)
    const answer = way?.answer ?? null
    const inView = write.request !== '' && store.requests.get(write.request) !== undefined
    if (inView && (way === undefined || answer !== null)) {
      this.#settle(write)
      write.resolve(answer?.outcome === 'applied' && write.readResult ? answer.existed : write.outcome)
      return true
    }
    switch (answer?.outcome) {
      case 'applied': {
        // Without a change, the entries it has read were confirmed.
        const confirmed = write.makeUpdate !== undefined && way!.bytes === 0
        if (!confirmed && performance.now() - way!.answeredAt < VIEW_MS) break
        if (!confirmed)
          this.#core.warn({ sequence: answer.sequence }, 'a forwarded change does not come into view')
        this.#settle(write)
        write.resolve(write.readResult ? answer.existed : write.outcome)
        return true
      }
      case 'refused':
        this.#settle(write)
        write.reject(answer.error)
        return true
      case 'conflict':
        // No other update of these entries is in flight: it runs again on the state in view.
        this.#dropInFlight(write)
        return false
      case 'again':
        // That process does not write (any more): the next connection leads to the one that does.
        this.#writeSender = null
        this.#resetInFlight()
        return false
    }
    return this.#refuseLate(write)
  }

  /** True: the change has timed out, and is rejected. */
  #refuseLate(write: PendingWrite): boolean {
    const { timeoutMs, refusal } = this.#options
    if (performance.now() - Math.max(write.queuedAt, this.#startedAt) < timeoutMs) return false
    this.#settle(write)
    const why = `the process that serves did not say within ${timeoutMs} ms`
    write.reject(write.sent ? mayBeMade(why, write.request) : refusal)
    return true
  }

  /** Sends the first change not in flight. False: there is none, or it must wait. */
  #sendNext(): boolean {
    const { queue } = this.#core
    const writeSender = this.#writeSender
    if (writeSender === null) return false
    const { head } = queue
    // An update that runs again is first, with others in flight behind it.
    const onWay = head !== undefined && this.#inFlight.has(head) ? this.#inFlight.size : 0
    const write = queue.at(onWay)
    if (write === undefined || onWay >= MOST_IN_FLIGHT || (onWay > 0 && this.#bytes >= MOST_IN_FLIGHT_BYTES))
      return false
    if (onWay > 0 && this.#mustWait(write, queue.at(onWay - 1)!)) return false
    const { waitingBytes } = this.#core.limits
    let forwarded: Omit<ForwardedWrite, 'request'>
    let reads: readonly string[]
    try {
      if (write.bytes > waitingBytes) throw tooLarge(write.bytes, waitingBytes)
      forwarded = this.#encodeWrite(write)
      reads = forwarded.reads.map(({ section, key }) => `${section}\0${key}`)
    } catch (error) {
      // A function that throws runs again when the update is first.
      this.#held = { write, reads: [] }
      if (onWay > 0) return false
      this.#settle(write)
      write.reject(error)
      return true
    }
    if (onWay > 0 && write.makeUpdate !== undefined && this.#areRead(reads)) {
      this.#held = { write, reads }
      return false
    }
    if (forwarded.parts.length === 0 && forwarded.reads.length === 0 && !forwarded.durable) {
      if (onWay > 0) return false
      this.#settle(write)
      write.resolve(write.outcome)
      return true
    }
    if (write.request === '') {
      write.request = `${OWN_INSTANCE}.${(++madeIds).toString(36)}`
      write.prints = [0]
    }
    let bytes = 0
    for (const part of forwarded.parts) bytes += part.length
    const number = ++this.#lastNumber
    this.#inFlight.set(write, { number, bytes, reads, answer: null, answeredAt: 0 })
    for (const read of reads) this.#reads.add(read)
    this.#numbers.set(number, write)
    this.#bytes += bytes
    write.sent = true
    writeSender.send(number, { request: write.request, ...forwarded })
    return true
  }

  /**
   * An update waits only for updates of the same entries, as the writer compares reads. Anything else waits until earlier updates are in view, and updates wait
   * for anything else.
   */
  #mustWait(write: PendingWrite, before: PendingWrite): boolean {
    if (write.makeUpdate === undefined) return before.makeUpdate !== undefined
    return before.makeUpdate === undefined || (this.#held?.write === write && this.#areRead(this.#held.reads))
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
    this.#dropInFlight(write)
    this.#core.queue.remove(1)
  }

  #dropInFlight(write: PendingWrite): void {
    const way = this.#inFlight.get(write)
    if (way === undefined) return
    this.#bytes -= way.bytes
    this.#numbers.delete(way.number)
    this.#inFlight.delete(write)
    for (const read of way.reads) this.#reads.delete(read)
  }
}

/** Most bytes of a part, which is never split: a message has at most 16 MiB. */
const MOST_PART_BYTES = mostBodyBytes(DEFAULT_LIMITS)
/** All reads of an update are in one message, which has at most 32,768 fields. */
const MOST_READS = 32_000
const MOST_READ_BYTES = 8 * 1024 * 1024
/** Bytes of a read, beside its names. */
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
    `a change that ${verb} ${got} ${of} cannot be made through the process that serves now: the limit is ${most}; make several of it, or make it there`,
    { details: { limit: 'message', most, got } },
  )
}
