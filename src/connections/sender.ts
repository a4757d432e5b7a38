import { LONGEST_MS } from '../base/duration.js'
import { FdbError } from '../errors.js'
import {
  initialMoveOut,
  type MoveOutEffect,
  type MoveOutEvent,
  stepMoveOut,
} from '../handoff/move-machine.js'
import { closeAll } from '../kernel/index.js'
import type { Link } from '../wire/link.js'
import type { MoveCounts } from './counts.js'
import { type Arrival, type Departure, MAX_RECORD_BYTES, type MoveWhich } from './movable.js'
import type { MoveLog } from './move-log.js'
import {
  closeItems,
  FirstWave,
  fdsOf,
  type Item,
  inTurns,
  LONGEST_PROOF_MS,
  movableOf,
  SliceFiller,
  type Source,
} from './move-slice.js'

/** A fresh process needs several times as long for its first requests: busy clients come spread over so many times the first wave, at most this long. */
const SPREAD = { waves: 3, mostMs: 750 }
/** So much of that may be made up for. */
const LATE_MS = 10

/** How many connections may go by now, evenly over a second. Those that may and did not are not kept for long. */
export class Pace {
  readonly #perMs: number
  readonly #most: number
  readonly #atOnce: number
  #allowed: number
  #countedAt = performance.now()

  /** `most`: that may go without a pause, the first ones too; `atOnce`: it is worth a turn to send so many. */
  constructor({ perSecond, most, atOnce }: { perSecond: number; most: number; atOnce: number }) {
    this.#perMs = perSecond / 1000
    this.#most = most
    this.#atOnce = Math.min(atOnce, most)
    this.#allowed = most
  }

  /** May go now. */
  get allowed(): number {
    return this.#allowed
  }

  spend(connections: number): void {
    this.#allowed -= connections
  }

  /** When {@link allowed} is worth a turn, of `performance.now()`; in the past or now: it is. */
  ready(): number {
    const now = performance.now()
    if (!Number.isFinite(this.#perMs)) return now
    this.#allowed = Math.min(this.#most, this.#allowed + (now - this.#countedAt) * this.#perMs)
    this.#countedAt = now
    return now + Math.max(0, this.#atOnce - this.#allowed) / this.#perMs
  }
}

const { POSITIVE_INFINITY: ANY } = Number
/** All may go. It has nothing to remember: many may share it. */
const UNBOUNDED = new Pace({ perSecond: ANY, most: ANY, atOnce: 1 })

/** The pace behind a first wave, which takes no longer than `mostMs`. `atOnce`: connections that are worth a turn; no more than those are not spread. */
export function spread(of: {
  connections: number
  firstWaveMs: number
  mostMs: number
  atOnce: number
}): Pace {
  const { connections, firstWaveMs, mostMs, atOnce } = of
  if (connections <= atOnce) return UNBOUNDED
  const perMs = connections / Math.min(SPREAD.waves * firstWaveMs, SPREAD.mostMs, mostMs)
  return new Pace({ perSecond: 1000 * perMs, most: Math.max(atOnce, perMs * LATE_MS), atOnce })
}

/** The receiver must have looked at a slice after so many milliseconds; it is one that its own slices bound. */
const ACK_MS = 2_000
/** A connection that could not leave is tried again after this time, and sooner when its server says so. */
const RESCAN_MS = 250
/** But not more often than this. */
const REST_MS = 5
/** The bytes of a connection that is on its way wait: a slice is to be taken within so long. */
const WAY_MS = 3
/** A slice has at least so many, and the first one too. */
const FEWEST = 4
/** The reason, as it is counted, of those whose record is more than a message may hold. */
const TOO_LARGE = 'ERR_FDB_CONNECTION_LARGE'

export interface ConnectionSenderOptions {
  /** To the receiver alone. Owned. */
  readonly link: Link
  /** Owned. */
  readonly log: MoveLog
  readonly sources: () => Iterable<Source>
  readonly which: MoveWhich
  readonly perSecond: number
  /** A few go first, the rest when the receiver has served them for so long, milliseconds, and not all at once; 0: all at once. */
  readonly firstWaveMs: number
  /** Connections that have not left after this time are closed. Default: none. */
  readonly drainMs?: number | undefined
  readonly counts: MoveCounts
  readonly fault: (error: unknown, message: string) => void
  /** The receiver has shown that it can serve what it takes. */
  readonly proved?: () => void
  /** Whatever could leave has left: for now nothing more goes. */
  readonly rested?: () => void
  /** Called once, when no more goes this way: the receiver has left, or has not answered. Slices under way have been decided. */
  readonly ended: () => void
}

/** Gives connections to another process by slices, frozen until the receiver acknowledges them; then they are closed here, or come back, as the move log says. */
export class ConnectionSender {
  readonly #options: ConnectionSenderOptions
  #machine = initialMoveOut()
  #items: readonly Item[] = []
  #refused = new Map<number, string>()
  #pass: Iterator<Source> | null = null
  #source: Source | null = null
  #departures: Iterator<Departure, void, undefined> | null = null
  #turn: NodeJS.Immediate | undefined
  #timer: NodeJS.Timeout | undefined
  #deadline: NodeJS.Timeout | undefined
  #restUntil = 0
  #over = false
  #decided: (() => void)[] = []
  #settling: Promise<void> = Promise.resolve()
  readonly #pace: Pace
  /** After the first wave, until all that can leave have left once. */
  #spread = UNBOUNDED
  /** Connections of a slice: so many as were taken in time before. */
  #most = FEWEST
  #preparedAt = 0
  #heard = new Set<Source>()
  #wave: FirstWave | null
  /** The first few have gone; nothing more does before the receiver has shown that it can serve them. */
  #proving = false
  /** The receiver knows of waves. */
  #waves = false
  #proof: NodeJS.Timeout | undefined

  constructor(options: ConnectionSenderOptions) {
    this.#options = options
    this.#pace = new Pace({ perSecond: options.perSecond, most: options.perSecond, atOnce: 1 })
    this.#wave = options.firstWaveMs > 0 ? new FirstWave() : null
  }

  start(): void {
    const { link, counts } = this.#options
    link.channel.unref()
    link.start({
      message: (envelope, fds) => {
        closeAll(fds)
        const { prepareAck, waveProved } = envelope
        if (waveProved) this.#proved()
        if (!prepareAck || prepareAck.slice !== this.#machine.pending) return
        this.#waves = prepareAck.waves ?? false
        const most = this.#items.length
        for (const { index = 0, code } of prepareAck.refused ?? [])
          if ((index ?? 0) < most) this.#refused.set(index ?? 0, code || 'ERR_FDB_REFUSED')
        this.#adapt()
        counts.giving.run(() => this.#step({ type: 'ack', slice: prepareAck.slice ?? 0 }))
      },
      broken: () => this.#end(),
      end: () => this.#end(),
    })
    this.#soon()
  }

  /** Resolves when no connection is between the processes: at once if none is. */
  async settled(): Promise<void> {
    if (this.#machine.pending !== 0) await new Promise<void>(resolve => this.#decided.push(resolve))
    await this.#settling
  }

  /** Gives nothing more; what is under way and not decided comes back. Resolves when it has. */
  stop(): Promise<void> {
    this.#end()
    return this.#settling
  }

  #end(): void {
    if (this.#over) return
    this.#over = true
    clearImmediate(this.#turn)
    clearTimeout(this.#timer)
    clearTimeout(this.#proof)
    for (const source of this.#heard) source.moving.onMovable = null
    this.#step({ type: 'lost' })
    const { link, log, ended } = this.#options
    link.close()
    log.close()
    void this.#settling.then(ended)
  }

  #step(event: MoveOutEvent): void {
    const { state, effects } = stepMoveOut(this.#machine, event)
    this.#machine = state
    for (const effect of effects) this.#perform(effect)
    if (this.#machine.pending === 0) for (const resolve of this.#decided.splice(0)) resolve()
  }

  #perform(effect: MoveOutEffect): void {
    switch (effect.type) {
      case 'prepare':
        this.#prepare(effect.slice)
        return
      case 'log':
        this.#step({ ...effect, type: 'logged', written: this.#write(effect.slice, effect.record) })
        return
      case 'drop':
        this.#drop(effect.slice)
        return
      case 'takeBack':
        this.#takeBack()
        return
    }
  }

  #write(slice: number, record: 'moved' | 'back'): boolean {
    try {
      return this.#options.log.append(slice, record)
    } catch (error) {
      this.#options.fault(error, 'the move log could not be written: connections stay')
      return false
    }
  }

  #soon(): void {
    if (this.#over || this.#turn !== undefined || this.#proving) return
    clearTimeout(this.#timer)
    const rest = Math.max(this.#restUntil, this.#pace.ready(), this.#spread.ready()) - performance.now()
    if (rest > 0) {
      this.#timer = setTimeout(() => this.#work(), rest)
      this.#timer.unref()
      return
    }
    this.#turn = setImmediate(() => {
      this.#turn = undefined
      this.#work()
    })
  }

  #work(): void {
    this.#options.counts.giving.run(() => this.#startSending())
  }

  #startSending(): void {
    if (this.#over || this.#machine.pending !== 0 || this.#proving) return
    const filler = new SliceFiller(this.#options.counts.giving)
    this.#fill(filler)
    if (filler.items.length === 0) {
      // A turn may end before a source has found anything: then the pass goes on.
      if (this.#pass !== null) this.#soon()
      else if ((this.#wave?.gone ?? 0) > 0) this.#prove()
      else this.#rest()
      return
    }
    this.#items = filler.items
    this.#pace.spend(filler.items.length)
    this.#spread.spend(filler.items.length)
    this.#step({ type: 'start' })
  }

  /** Asks the receiver, which answers when it has; one that knows of no waves has the time alone. The rest must have left before it is closed. */
  #prove(): void {
    const { link, firstWaveMs } = this.#options
    this.#wave = null
    this.#proving = true
    // No connection need be kept from its next request meanwhile.
    for (const source of this.#heard) source.moving.onMovable = null
    if (this.#waves) link.post({ firstWave: { healthyMs: firstWaveMs } })
    const longest = this.#waves ? firstWaveMs + 2 * LONGEST_PROOF_MS : firstWaveMs
    this.#proof = setTimeout(() => this.#proved(), Math.min(longest, this.#drainMs / 2))
    this.#proof.unref()
  }

  #proved(): void {
    if (!this.#proving) return
    this.#proving = false
    clearTimeout(this.#proof)
    this.#options.proved?.()
    const { sources, firstWaveMs } = this.#options
    const connections = movableOf(sources())
    this.#spread = spread({ connections, firstWaveMs, mostMs: this.#drainMs / 4, atOnce: FEWEST })
    this.#soon()
  }

  get #drainMs(): number {
    return this.#options.drainMs ?? LONGEST_MS
  }

  #rest(): void {
    this.#spread = UNBOUNDED
    this.#restUntil = performance.now() + REST_MS
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#work(), RESCAN_MS)
    this.#timer.unref()
    this.#options.rested?.()
  }

  #fill(filler: SliceFiller): void {
    this.#pass ??= this.#options.sources()[Symbol.iterator]()
    const most = Math.min(this.#pace.allowed, this.#spread.allowed, this.#most)
    while (filler.open && filler.items.length < most) {
      const departure = this.#next()
      if (departure === null) return
      const source = this.#source!
      if (departure.record.length <= MAX_RECORD_BYTES) filler.add(source, departure)
      else this.#keepLarge({ source, departure })
    }
  }

  /** One with too large a record stays alone; the others go. */
  #keepLarge(item: Item): void {
    this.#options.counts.refuse(TOO_LARGE)
    const { listener, moving } = item.source
    const bytes = item.departure.record.length
    this.#options.fault(
      new FdbError(
        TOO_LARGE,
        `the record of a connection on listener "${listener}" (${moving.protocol}) has ${bytes} bytes, more than ` +
          `${MAX_RECORD_BYTES}: it stays in this process until it ends`,
      ),
      'a connection cannot go to the next process',
    )
    this.#return([item], 'refused')
  }

  /** The next connection that can leave in this pass over all sources; null at its end. */
  #next(): Departure | null {
    for (;;) {
      if (this.#departures !== null && (this.#wave?.mayLeave(this.#source!.moving) ?? true)) {
        const next = this.#departures.next()
        if (!next.done) {
          this.#wave?.left(this.#source!.moving)
          return next.value
        }
      }
      this.#departures = null
      const source = this.#pass!.next()
      if (source.done) {
        this.#pass = null
        return null
      }
      this.#source = source.value
      this.#listen(source.value)
      this.#departures = source.value.moving.departures(this.#options.which)
    }
  }

  #listen(source: Source): void {
    this.#heard.add(source)
    source.moving.onMovable = () => {
      if (this.#machine.pending === 0) this.#soon()
    }
  }

  /** Before a slice is acknowledged the receiver has gone on with the connections of the one before. */
  #adapt(): void {
    const taken = this.#items.length
    const fit = Math.floor((taken * WAY_MS) / (performance.now() - this.#preparedAt))
    this.#most = Math.max(FEWEST, Math.min(fit, 2 * taken))
  }

  #prepare(slice: number): void {
    this.#refused.clear()
    this.#preparedAt = performance.now()
    const items = this.#items
    const connections = items.map(({ source, departure }) => ({
      listener: source.listener,
      protocol: source.moving.protocol,
      record: departure.record,
      fds: departure.fds.length,
    }))
    this.#deadline = setTimeout(() => {
      this.#step({ type: 'deadline' })
      // The receiver may still hold the slice: it learns from the end of the channel that it has to look.
      this.#end()
    }, ACK_MS)
    this.#options.link.send({ prepare: { slice, connections } }, fdsOf(items)).catch(() => this.#end())
  }

  #drop(slice: number): void {
    clearTimeout(this.#deadline)
    const { counts, link } = this.#options
    const items = this.#items
    const refused: Item[] = []
    const gone: Item[] = []
    for (const [index, item] of items.entries()) {
      const code = this.#refused.get(index)
      if (code === undefined) gone.push(item)
      else {
        refused.push(item)
        counts.refuse(code)
      }
    }
    this.#items = []
    link.post({ moved: { slice } })
    counts.moved += gone.length
    closeItems(gone)
    if (refused.length > 0) this.#return(refused, 'refused')
    this.#soon()
  }

  #takeBack(): void {
    clearTimeout(this.#deadline)
    const items = this.#items
    this.#items = []
    this.#return(items, 'returned')
  }

  #return(items: readonly Item[], how: Arrival): void {
    this.#settling = Promise.all([
      this.#settling,
      inTurns(items, this.#options.counts.giving, ({ source, departure }) => {
        try {
          source.moving.arrive(departure, how)
        } catch (error) {
          this.#options.counts.lost++
          this.#options.fault(
            error,
            'a connection that could not go to the next process could not be taken back',
          )
        }
      }),
    ]).then(() => {})
  }
}
