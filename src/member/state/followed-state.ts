import { FdbError } from '../../errors.js'
import { copyAll, SegmentSet } from '../../holder/segment-set.js'
import { closeAll } from '../../kernel/index.js'
import { Segment } from '../../state/segment.js'
import { StateLog } from '../../state/state-log.js'
import type { BundleItem } from '../../wire/bundle.js'
import { REFUSED, remoteError, type WireEnvelope } from '../../wire/link.js'
import { Pending } from '../../wire/pending.js'
import { DescriptorShortage, isDescriptorShortage } from '../lifecycle/cannot-serve.js'
import type { Machine, Origin } from '../lifecycle/process-machine.js'
import { notReady, type Readiness } from '../lifecycle/readiness.js'
import type { Settings } from '../options/options.js'
import { SegmentLoader } from './segment-loader.js'
import { ServingLink } from './serving-link.js'
import { WriteForwarder } from './write-forwarder.js'

/** The interval at which new records are read, in case the daemon does not report them. */
const READ_MS = 250
const FEWEST_MERGED = 8

interface FollowedStateDeps {
  readonly settings: Settings
  readonly origin: Pick<Origin, 'generation'>
  readonly machine: Machine
  readonly readiness: Pick<Readiness, 'checks'>
}

/**
 * The state of another service of the same daemon (option `follow`). This process reads that service's segments itself. The changes of this process go
 * through the daemon to the member that writes, and are sent again if either is replaced or crashes. Owns log and connection.
 */
export class FollowedState {
  readonly log: StateLog
  readonly #service: string
  readonly #logger: Settings['logger']
  readonly #segmentSet = new SegmentSet()
  readonly #loader: SegmentLoader
  readonly #writes: WriteForwarder
  readonly #link: ServingLink
  readonly #inView = new Pending<void>()
  readonly #shortage: DescriptorShortage
  /** Resolves when all received bundles have been read, one after the other. */
  #reading: Promise<void> = Promise.resolve()
  #timer: NodeJS.Timeout | undefined
  #unreadable: FdbError | null = null
  /** The start time of the followed service, which belongs to the held segments; 0 if none are held. A restarted service has another one. */
  #serviceStartedAt = 0
  /** The same, for the segments that arrive next. */
  #nextStartedAt = 0
  #closed = false

  constructor(service: string, { machine, origin, readiness, settings }: FollowedStateDeps) {
    const { generation } = origin
    const { control, logger, stateLimits, timeout, times, versions } = settings
    this.#service = service
    this.#logger = logger
    this.#shortage = new DescriptorShortage(`the newest state of "${service}" cannot be received`, logger)
    this.log = new StateLog({ logger, limits: stateLimits })
    this.log.prematureError = () => (machine.phase === 'joining' ? notReady() : null)
    this.log.inCheck = () => readiness.checks
    this.log.onUnreadable = error => this.#cannotRead(error)
    // Only the member that writes can flush the state file.
    const flush = () =>
      Promise.reject(new Error(`only the member that writes "${service}" can flush its state`))
    this.log.disk = { checkServing: () => {}, flush }
    this.#loader = new SegmentLoader(this.log, this.#segmentSet, logger)
    const again = () => this.#link.reconnect()
    this.#writes = new WriteForwarder(this.log, timeout, again)
    this.#link = new ServingLink({
      settings: { logger, service, versions, control: control ?? '' },
      hello: () => ({
        intent: 'follow',
        generation,
        top: this.#segmentSet.top,
        follower: settings.service,
        serviceStartedAt: this.#serviceStartedAt,
      }),
      everyMs: () => times.heartbeat,
      report: () => ({ pid: process.pid, generation, phase: machine.phase, sequence: this.log.sequence }),
      writes: this.#writes,
      events: {
        adopt: items => {
          const startedAt = this.#nextStartedAt
          this.#queue(() => this.#read(items, startedAt))
        },
        broken: error => {
          if (isDescriptorShortage(error)) this.#shortage.log(error)
        },
        handle: envelope => this.#handle(envelope),
      },
    })
  }

  /**
   * Resolves when the state has been read. Rejects with the daemon's refusal, with ERR_FDB_STATE_… if the state cannot be read, and with
   * ERR_FDB_DEADLINE if no process serves that service within `timeoutMs`.
   */
  open(timeoutMs: number): Promise<void> {
    this.#link.start()
    const why = `the state of "${this.#service}" was not available within ${Math.ceil(timeoutMs)} ms: start a member of that service first`
    this.#inView.limit(timeoutMs, () =>
      this.#inView.reject(new FdbError('ERR_FDB_DEADLINE', why, { retryable: true })),
    )
    return this.#inView.answer
  }

  startForwarding(): void {
    const why = `the change was not made: no process that writes the state of "${this.#service}" took it in time. Try again when a member of "${this.#service}" serves`
    this.#writes.start(new FdbError('ERR_FDB_DEADLINE', why, { retryable: true }))
  }

  get outdatedReason(): string | null {
    return this.#unreadable && `the state of "${this.#service}" cannot be read: ${this.#unreadable.message}`
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    clearInterval(this.#timer)
    this.#shortage.end()
    this.#link.stop()
    this.#writes.end()
    this.#inView.reject(new FdbError('ERR_FDB_CLOSED', 'this member has left'))
    this.log.endWriting(
      new FdbError('ERR_FDB_CLOSED', 'this member has left: nothing can be written any more'),
    )
    this.log.close()
    this.#segmentSet.close()
  }

  #handle({ appended, reject: rejected, welcome }: WireEnvelope): void {
    if (appended) this.#readNew()
    if (welcome) this.#nextStartedAt = welcome.serviceStartedAt ?? 0
    if (rejected && !rejected.retryable) this.#inView.reject(remoteError(rejected, REFUSED))
  }

  #readNew(): void {
    if (!this.#closed) void this.log.position
  }

  #queue(work: () => Promise<void>): void {
    this.#reading = this.#reading.then(work).then(
      () => this.#shortage.end(),
      error => this.#failed(error),
    )
  }

  /** If descriptors are short and the state was read before, retries: reads the held segments, or requests all if none are held. */
  #failed(error: unknown): void {
    if (this.#closed || !this.#inView.settled || !isDescriptorShortage(error)) {
      this.#cannotRead(error)
      return
    }
    this.#shortage.retryLater(error, () => {
      if (this.#segmentSet.all.length === 0) this.#link.reconnect()
      else this.#queue(() => this.#loader.follow())
    })
  }

  async #read(items: readonly BundleItem[], startedAt: number): Promise<void> {
    const segments = this.#open(items)
    const [first] = segments
    if (first === undefined) return
    const restarted = startedAt !== this.#serviceStartedAt
    if (!this.#inView.settled) await this.#start(segments)
    else if (restarted || first.kind === 'snapshot') await this.#rebuild(segments)
    else await this.#append(segments)
    this.#serviceStartedAt = startedAt
    this.#readNew()
    await this.#merge()
  }

  /** Returns no segments if this process has left. */
  #open(items: readonly BundleItem[]): Segment[] {
    const wanted = items.filter(({ role }) => role === 'segment' && !this.#closed)
    closeAll(items.filter(item => !wanted.includes(item)).map(({ fd }) => fd))
    return Segment.openAll(wanted.map(({ fd }) => fd))
  }

  async #start(segments: readonly Segment[]): Promise<void> {
    for (const segment of segments) this.#segmentSet.put(segment, false)
    await this.#loader.read(Number.POSITIVE_INFINITY)
    await this.#loader.follow()
    if (this.#closed) return
    this.#timer = setInterval(() => this.#readNew(), READ_MS).unref()
    this.#inView.resolve()
  }

  async #append(segments: readonly Segment[]): Promise<void> {
    for (const segment of segments) {
      if (segment.epoch > this.#segmentSet.top) this.#segmentSet.put(segment, false)
      else segment.close()
    }
    await this.#loader.follow()
  }

  /** Reads the whole state again from `segments`, because some were merged into a snapshot, or the service was started again. */
  async #rebuild(segments: readonly Segment[]): Promise<void> {
    this.#segmentSet.close()
    for (const segment of segments) this.#segmentSet.put(segment, false)
    try {
      await this.log.rebuild(copyAll(segments, segment => segment.share()))
    } catch (error) {
      // The retry asks for all segments.
      this.#segmentSet.close()
      throw error
    }
    this.#unreadable = null
    this.log.follow()
  }

  /** Merges sealed segments, to free the memory of replaced values, and drops empty ones, which each upgrade of the followed service leaves. */
  async #merge(): Promise<void> {
    if (this.#closed) return
    this.#segmentSet.prune(this.#segmentSet.top)
    await this.log.dropEmpty()
    if (this.#closed) return
    await this.#loader.compact(snapshot => this.#segmentSet.replaceUpTo(snapshot.share()), {
      from: FEWEST_MERGED,
    })
  }

  #cannotRead(error: unknown): void {
    if (this.#closed) return
    this.#unreadable = FdbError.from(error)
    this.#inView.reject(this.#unreadable)
    this.#logger.error(
      { err: error, follows: this.#service },
      'the state that this process follows cannot be read: this process continues with older state',
    )
  }
}
