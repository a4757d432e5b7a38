import { afterReading, type Limit } from '../base/after-reading.js'
import { FdbError } from '../errors.js'
import {
  initialMoveOut,
  type MoveOutEffect,
  type MoveOutEvent,
  stepMoveOut,
} from '../handoff/move-machine.js'
import { closeAll, type OwnedFd } from '../kernel/index.js'
import type { fdbroker } from '../proto/wire.js'
import type { Link } from '../wire/link.js'
import { BUSY_TURN_MS, type MoveCounts } from './counts.js'
import { type Arrival, MAX_RECORD_BYTES, type MovableConnections, type MoveWhich } from './movable.js'
import type { MoveLog } from './move-log.js'
import {
  closeItems,
  countMovable,
  FirstWave,
  fdsOf,
  type Item,
  kindOf,
  LONGEST_PROOF_MS,
  runInTurns,
  SliceFiller,
  type Source,
  toWire,
} from './move-slice.js'
import { Pass } from './pass.js'

/**
 * A new process takes several times as long for its first requests as for later ones. So after the first wave the remaining connections leave
 * during `waves` times `firstWaveMs`, but at most during `mostMs`.
 */
const SPREAD = { waves: 3, mostMs: 400 }
/**
 * The time between two slices of the spread, in milliseconds, and the most connections of one. A slice costs both processes as much as some three connections: so
 * few slices cost less. Large ones hold both event loops longer.
 */
const SPREAD_SLICE = { everyMs: 8, most: 48 }
/**
 * If connections leave later than planned, at most this delay (milliseconds) is made up for at once, but always a largest slice: on a busy machine the answer to a slice takes
 * longer than the time between two of them, so the next one has more connections.
 */
const LATE_MS = 10

/** Limits the rate at which connections leave. */
export class MoveRate {
  readonly #perMs: number
  readonly #most: number
  /** The connections of a slice: fewer are not worth a turn of the event loop, more hold it longer. */
  readonly atOnce: number
  /** The most connections of one slice. */
  readonly largest: number
  /** The number of connections that may leave now. */
  allowed: number
  #countedAt = performance.now()

  /** `most`: how many connections may leave without a pause, also at the start. */
  constructor(of: { perSecond: number; most: number; atOnce: number; largest?: number }) {
    const { perSecond, most, atOnce, largest = most } = of
    this.#perMs = perSecond / 1000
    this.#most = most
    this.atOnce = Math.min(atOnce, most)
    this.largest = largest
    this.allowed = most
  }

  /** Returns the time (performance.now()) at which `atOnce` connections may leave; the present time if they may leave now. */
  readyAt(): number {
    const now = performance.now()
    if (!Number.isFinite(this.#perMs)) return now
    this.allowed = Math.min(this.#most, this.allowed + (now - this.#countedAt) * this.#perMs)
    this.#countedAt = now
    return now + Math.max(0, this.atOnce - this.allowed) / this.#perMs
  }
}

const { POSITIVE_INFINITY: ANY } = Number
/** All senders share this rate without a limit: it has no state. */
const UNBOUNDED = new MoveRate({ perSecond: ANY, most: ANY, atOnce: ANY })

/** Returns the pace after a first wave, for at most `mostMs`. `atOnce`: see {@link MoveRate}; up to this many connections are not spread. */
export function spreadPace(of: {
  connections: number
  firstWaveMs: number
  mostMs: number
  atOnce: number
}): MoveRate {
  const { connections, firstWaveMs, mostMs, atOnce } = of
  if (connections <= atOnce) return UNBOUNDED
  const perMs = connections / Math.min(SPREAD.waves * firstWaveMs, SPREAD.mostMs, mostMs)
  const perSlice = Math.max(atOnce, Math.min(SPREAD_SLICE.most, perMs * SPREAD_SLICE.everyMs))
  const rate = new MoveRate({
    perSecond: 1000 * perMs,
    most: Math.max(SPREAD_SLICE.most, perMs * LATE_MS),
    atOnce: perSlice,
    largest: SPREAD_SLICE.most,
  })
  // Nothing is late yet.
  rate.allowed = perSlice
  return rate
}

/** If the receiver does not acknowledge a slice within this time (milliseconds), the sender ends the channel. */
const ACK_MS = 2_000
/** After this pause (milliseconds) the next pass over all connections starts, or earlier if a server calls `onMovable`. */
const RESCAN_MS = 250
/** The shortest pause between two passes, in milliseconds. */
const PASS_PAUSE_MS = 5
/** The receiver should need no more work than this for a slice (milliseconds), because the clients of the slice's connections wait meanwhile. */
const SLICE_MS = 3
/** Least number of connections per slice; the first slice has this many. */
const FEWEST = 4
const TOO_LARGE = 'ERR_FDB_CONNECTION_LARGE'

export interface ConnectionSenderOptions {
  /** The channel to the receiver. Owned. */
  readonly link: Link
  /** Owned. */
  readonly log: MoveLog
  readonly sources: () => Iterable<Source>
  readonly which: MoveWhich
  readonly perSecond: number
  /**
   * A few connections move first. The remaining ones follow, spread over time, when the receiver has served the first ones for this time
   * (milliseconds). 0: all connections leave at once.
   */
  readonly firstWaveMs: number
  /** The time after which the remaining connections are closed, in milliseconds. */
  readonly drainMs: number
  readonly counts: MoveCounts
  readonly reportError: (error: unknown, message: string) => void
  /** Called when the receiver has served the first wave, or the time for that is over. */
  readonly onProved?: () => void
  /** Called after each pass that found no connection to move. */
  readonly onIdle?: () => void
  /** Called once, when the channel has ended and the owner of each slice is known. */
  readonly onEnded: () => void
}

/**
 * Sends connections to another process in slices. Neither process reads from the connections of a slice until the receiver acknowledges
 * the slice. Then the sender records in the move log whether the connections have moved or come back.
 */
export class ConnectionSender {
  readonly #options: ConnectionSenderOptions
  #machine = initialMoveOut()
  #items: readonly Item[] = []
  /** The next slice, which is filled while the receiver has the previous one. */
  #filler: SliceFiller | null = null
  #refused = new Map<number, string>()
  #pass: Pass | null = null
  #turn: NodeJS.Immediate | undefined
  #timer: NodeJS.Timeout | undefined
  #deadline: Limit | undefined
  #nextPassAt = 0
  #over = false
  /** Functions that resolve the waiting calls of {@link settled}; called when no slice is pending any more. */
  #decided: (() => void)[] = []
  /** Resolves when all connections that came back are open again. */
  #returning: Promise<void> = Promise.resolve()
  readonly #pace: MoveRate
  /** The pace from the end of the first wave to the end of the next pass. */
  #spread = UNBOUNDED
  /** How many connections the next slice may have, so that the receiver needs {@link SLICE_MS} for it. */
  #most = FEWEST
  #preparedAt = 0
  readonly #watched = new Set<MovableConnections>()
  #wave: FirstWave | null
  /** The first wave has left, and the sender waits until the receiver has served it. */
  #proving = false
  /** The receiver supports waves. */
  #waves = false
  /** The receiver reports each slice that it has adopted, and gives connections back whose hook has thrown. */
  #returns = false
  /** The last slice that moved, until the receiver has adopted it. */
  #unadopted = 0
  #proof: NodeJS.Timeout | undefined
  #adoption: Limit | undefined
  #stopped: Promise<void> | null = null
  #closed = false

  constructor(options: ConnectionSenderOptions) {
    this.#options = options
    this.#pace = new MoveRate({ perSecond: options.perSecond, most: options.perSecond, atOnce: 1 })
    this.#wave = options.firstWaveMs > 0 ? new FirstWave() : null
  }

  start(): void {
    const { link, counts } = this.#options
    link.channel.unref()
    link.start({
      message: (envelope, fds) => {
        const { adopted, prepareAck, waveProved } = envelope
        if (adopted) this.#onAdopted(adopted, fds)
        else closeAll(fds)
        if (waveProved) this.#onProved()
        if (!prepareAck || prepareAck.slice !== this.#machine.pending) return
        this.#waves = prepareAck.waves ?? false
        this.#returns = prepareAck.returns ?? false
        const most = this.#items.length
        for (const { index = 0, code } of prepareAck.refused ?? [])
          if ((index ?? 0) < most) this.#refused.set(index ?? 0, code || 'ERR_FDB_REFUSED')
        this.#adapt(prepareAck.worked)
        counts.sending.run(() => {
          this.#step({ type: 'ack', slice: prepareAck.slice ?? 0 })
          if (this.#filler !== null) this.#startSending()
        })
      },
      broken: () => this.#end(),
      end: () => this.#end(),
    })
    this.#schedule()
  }

  /** Resolves when no connection is between the two processes, and none can come back. */
  async settled(): Promise<void> {
    if (!this.isSettled) await new Promise<void>(resolve => this.#decided.push(resolve))
    await this.#returning
  }

  /**
   * Sends no more connections, and takes back the connections of an undecided slice, and those of the last one whose hook throws in the receiver. Resolves
   * when these are open again.
   */
  stop(): Promise<void> {
    this.#endSending()
    this.#stopped ??= this.#closeWhenAdopted()
    return this.#stopped
  }

  async #closeWhenAdopted(): Promise<void> {
    if (!this.isSettled) await new Promise<void>(resolve => this.#decided.push(resolve))
    this.#close()
    await this.#returning
  }

  /** The channel has ended. */
  #end(): void {
    this.#endSending()
    this.#endAdoption()
    this.#close()
  }

  #endSending(): void {
    if (this.#over) return
    this.#over = true
    this.#proving = false
    clearImmediate(this.#turn)
    clearTimeout(this.#timer)
    clearTimeout(this.#proof)
    for (const moving of this.#watched) moving.onMovable = null
    this.#return(this.#takeFilled(), 'returned')
    this.#step({ type: 'lost' })
  }

  #close(): void {
    if (this.#closed) return
    this.#closed = true
    const { link, log, onEnded } = this.#options
    link.close()
    log.close()
    void this.#returning.then(onEnded)
  }

  #step(event: MoveOutEvent): void {
    const { state, effects } = stepMoveOut(this.#machine, event)
    this.#machine = state
    for (const effect of effects) this.#perform(effect)
    this.#resolveDecided()
    // The receiver has sealed the log. A connection that left its server now would be in no slice.
    if (this.#machine.over && !this.#over) this.#end()
  }

  /** Whether no connection is between the two processes, and none can come back. */
  get isSettled(): boolean {
    return this.#machine.pending === 0 && this.#unadopted === 0 && this.#filler === null
  }

  #resolveDecided(): void {
    if (!this.isSettled) return
    for (const resolve of this.#decided.splice(0)) resolve()
  }

  /** Takes back the connections that the application of the receiver could not restore: they stay in this process. */
  #onAdopted({ slice, returned }: fdbroker.wire.Adopted.$Properties, fds: OwnedFd[]): void {
    const { counts, sources, reportError } = this.#options
    const items: Item[] = []
    for (const { listener, protocol, record, fds: count } of returned ?? []) {
      const own = fds.splice(0, count ?? 0)
      const source = [...sources()].find(one => one.listener === listener && one.moving.protocol === protocol)
      try {
        if (source === undefined) throw new FdbError('ERR_FDB_NO_TARGET', `"${listener}" is closed`)
        const bytes = record ?? new Uint8Array(0)
        const departure = source.moving.check(bytes, own) ?? { record: bytes, fds: own }
        const item = { source, departure }
        items.push(item)
        counts.movedKinds.add(kindOf(item), -1)
        counts.refuse('ERR_FDB_HOOK', kindOf(item))
      } catch (error) {
        closeAll(own)
        counts.lost++
        reportError(error, 'a connection that the next process gave back could not be taken and is closed')
      }
    }
    closeAll(fds)
    if (items.length > 0) this.#return(items, 'refused')
    if (slice === this.#unadopted) this.#endAdoption()
  }

  #endAdoption(): void {
    this.#adoption?.clear()
    this.#unadopted = 0
    this.#resolveDecided()
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
      this.#options.reportError(
        error,
        'the move log could not be written: connections remain in this process',
      )
      return false
    }
  }

  #schedule(): void {
    if (this.#over || this.#turn !== undefined || this.#proving) return
    clearTimeout(this.#timer)
    const delay = Math.max(this.#nextPassAt, this.#pace.readyAt(), this.#spread.readyAt()) - performance.now()
    if (delay > 0) {
      this.#timer = setTimeout(() => this.#work(), delay).unref()
      return
    }
    this.#turn = setImmediate(() => {
      this.#turn = undefined
      this.#work()
    })
  }

  #work(): void {
    this.#options.counts.sending.run(() => this.#startSending())
  }

  #startSending(): void {
    if (this.#over || this.#proving) return
    const isPending = this.#machine.pending !== 0
    // The next pass begins when the slice is decided.
    if (isPending && this.#pass === null) return
    this.#fill()
    // A hook of the application has ended the moves.
    if (this.#over) this.#return(this.#takeFilled(), 'returned')
    else if (isPending) {
      if (this.#pass !== null && this.#mayFill) this.#schedule()
    } else if (this.#filler !== null) {
      this.#items = this.#takeFilled()
      this.#step({ type: 'start' })
      this.#schedule()
    }
    // The turn's time was used up before the pass found a movable connection: continue the pass in a later turn.
    else if (this.#pass !== null) this.#schedule()
    else if ((this.#wave?.sent ?? 0) > 0) this.#prove()
    else this.#endPass()
  }

  #takeFilled(): readonly Item[] {
    const items = this.#filler?.items ?? []
    this.#filler = null
    return items
  }

  /**
   * Asks the receiver to report when it has served the first wave. If the receiver does not support waves, waits for
   * `firstWaveMs` instead. Waits at most half of `drainMs`, so that the remaining connections can leave in the other half.
   */
  #prove(): void {
    const { link, firstWaveMs, drainMs } = this.#options
    this.#wave = null
    this.#proving = true
    // No connection leaves until the receiver has served the first wave, so servers need not hold connections for a move.
    for (const moving of this.#watched) moving.onMovable = null
    if (this.#waves) link.post({ firstWave: { healthyMs: firstWaveMs } })
    const longest = this.#waves ? firstWaveMs + 2 * LONGEST_PROOF_MS : firstWaveMs
    this.#proof = setTimeout(() => this.#onProved(), Math.min(longest, drainMs / 2)).unref()
  }

  #onProved(): void {
    if (!this.#proving) return
    this.#proving = false
    clearTimeout(this.#proof)
    this.#options.onProved?.()
    const { sources, firstWaveMs, drainMs } = this.#options
    const connections = countMovable(sources())
    this.#spread = spreadPace({ connections, firstWaveMs, mostMs: drainMs / 4, atOnce: FEWEST })
    this.#schedule()
  }

  #endPass(): void {
    this.#spread = UNBOUNDED
    this.#nextPassAt = performance.now() + PASS_PAUSE_MS
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#work(), RESCAN_MS).unref()
    this.#options.onIdle?.()
  }

  /** Whether the next slice has room for more connections. */
  get #mayFill(): boolean {
    const filler = this.#filler
    return filler === null || (!filler.isFull && filler.items.length < this.#room)
  }

  get #room(): number {
    return Math.min(this.#spread.largest, this.#most)
  }

  #fill(): void {
    this.#pass ??= this.#newPass()
    const filler = this.#filler ?? new SliceFiller()
    // A hook may end the moves meanwhile.
    this.#filler = null
    const isUsedUp = this.#options.counts.sending.budget()
    const before = filler.items.length
    const most = Math.min(before + Math.min(this.#pace.allowed, this.#spread.allowed), this.#room)
    while (!this.#over && !filler.isFull && filler.items.length < most && !isUsedUp()) {
      const item = this.#pass.next()
      if (item === null) continue
      if (item === undefined) {
        this.#pass = null
        break
      }
      this.#wave?.count(item.source.moving)
      if (item.departure.record.length <= MAX_RECORD_BYTES) filler.add(item)
      else this.#keepLarge(item)
    }
    const added = filler.items.length - before
    this.#pace.allowed -= added
    this.#spread.allowed -= added
    if (filler.items.length > 0) this.#filler = filler
  }

  /** Takes back a connection whose record is too large. */
  #keepLarge(item: Item): void {
    this.#options.counts.refuse(TOO_LARGE, kindOf(item))
    const { listener, moving } = item.source
    const bytes = item.departure.record.length
    this.#options.reportError(
      new FdbError(
        TOO_LARGE,
        `the record of a connection on listener "${listener}" (${moving.protocol}) has ${bytes} bytes, more than ` +
          `${MAX_RECORD_BYTES}: it stays in this process until it ends`,
      ),
      'a connection cannot move to the next process',
    )
    this.#return([item], 'refused')
  }

  #newPass(): Pass {
    const { sources, which, reportError } = this.#options
    const all = [...sources()]
    for (const source of all) this.#watch(source)
    return new Pass(all, {
      mayLeave: moving => this.#wave?.mayLeave(moving) !== false,
      begin: moving => moving.departures(which),
      failed: error =>
        reportError(error, 'a server failed to give a connection that should move to the next process'),
    })
  }

  #watch(source: Source): void {
    this.#watched.add(source.moving)
    source.moving.onMovable = () => {
      this.#pass?.again(source)
      if (this.#machine.pending === 0) this.#schedule()
    }
  }

  /**
   * Adapts the slice size to the receiver's work. The receiver acknowledges a slice only after it has adopted the previous one, so that is included. `workedUs`: the
   * work without the waits for a busy machine, which are as long for a slice of any size; null if the receiver does not tell. Where the clients wait for these anyway, the work may last as long.
   */
  #adapt(workedUs: number | null | undefined): void {
    const elapsedMs = performance.now() - this.#preparedAt
    const workedMs = Math.min(elapsedMs, (workedUs ?? Number.POSITIVE_INFINITY) / 1000)
    const mayWorkMs = Math.min(BUSY_TURN_MS, Math.max(SLICE_MS, elapsedMs - workedMs))
    const inTime = Math.floor((this.#items.length * mayWorkMs) / workedMs)
    this.#most = Math.max(FEWEST, Math.min(Math.max(inTime, this.#most / 2), 2 * this.#most))
  }

  #prepare(slice: number): void {
    this.#refused.clear()
    this.#preparedAt = performance.now()
    const items = this.#items
    const connections = items.map(({ source, departure }) => toWire(source, departure))
    this.#deadline = afterReading(ACK_MS, () => {
      this.#step({ type: 'deadline' })
      // The receiver may still hold the slice: the end of the channel makes the receiver read the move log.
      this.#end()
    })
    this.#options.link.send({ prepare: { slice, connections } }, fdsOf(items)).catch(() => this.#end())
  }

  #drop(slice: number): void {
    this.#deadline?.clear()
    const { counts, link } = this.#options
    const items = this.#items
    const refused: Item[] = []
    const moved: Item[] = []
    for (const [index, item] of items.entries()) {
      const code = this.#refused.get(index)
      if (code === undefined) moved.push(item)
      else {
        refused.push(item)
        counts.refuse(code, kindOf(item))
      }
    }
    this.#items = []
    link.post({ moved: { slice } })
    for (const item of moved) counts.movedKinds.add(kindOf(item))
    if (this.#returns && !this.#over) {
      this.#unadopted = slice
      this.#adoption?.clear()
      this.#adoption = afterReading(ACK_MS, () => this.#endAdoption(), { unref: true })
    }
    closeItems(moved)
    for (const { departure } of moved) departure.wipe?.()
    if (refused.length > 0) this.#return(refused, 'refused')
    this.#schedule()
  }

  #takeBack(): void {
    this.#deadline?.clear()
    const items = this.#items
    this.#items = []
    this.#return(items, 'returned')
  }

  #return(items: readonly Item[], how: Arrival): void {
    this.#returning = Promise.all([
      this.#returning,
      runInTurns(items, this.#options.counts.sending, ({ source, departure }) => {
        try {
          source.moving.arrive(departure, how)
        } catch (error) {
          this.#options.counts.lost++
          this.#options.reportError(
            error,
            'a connection could neither move to the next process nor be taken back, and is closed',
          )
        }
      }),
    ]).then(() => {})
  }
}
