import { afterReading, type Limit } from '../base/after-reading.js'
import { FdbError } from '../errors.js'
import { initialMoveIn, type MoveInEffect, type MoveInEvent, stepMoveIn } from '../handoff/move-machine.js'
import { closeAll, type OwnedFd } from '../kernel/index.js'
import { fateOf } from '../os/process-identity.js'
import type { fdbroker } from '../proto/wire.js'
import { type Link, peerLeft } from '../wire/link.js'
import type { MoveCounts } from './counts.js'
import {
  MAX_CONNECTION_FDS,
  MAX_RECORD_BYTES,
  type MovableConnections,
  NotRestored,
  type Witness,
} from './movable.js'
import type { MoveLog } from './move-log.js'
import {
  closeItems,
  fdsOf,
  type Item,
  kindOf,
  runInTurns,
  toWire,
  type WireMoving,
  waitForProof,
} from './move-slice.js'

/** The sender decides as soon as it has the acknowledgement. If no decision arrives within this time, the receiver reads the move log. */
const DECISION_MS = 5_000
/** The longest `healthyMs` that a sender may ask for. */
const MOST_HEALTHY_MS = 60_000

export interface ConnectionReceiverOptions {
  /** The channel to the sender. Owned. */
  readonly link: Link
  /** Owned. */
  readonly log: MoveLog
  /** The pidfd of the sending process, or its pid if the kernel has no pidfds. Owned. */
  readonly sender: OwnedFd | number
  /** Returns the server that continues connections of `protocol` on the listener of this address, or, if there is none, of this name. */
  readonly target: (listener: string, protocol: string, address: string) => MovableConnections | undefined
  readonly counts: MoveCounts
  readonly reportError: (error: unknown, message: string) => void
  /** Called once, when no more connections arrive on this channel. */
  readonly onEnded: () => void
}

type WireRefusal = fdbroker.wire.Refusal.$Properties

/** A slice that has arrived, and about which the sender has not decided yet. */
interface HeldSlice {
  readonly items: Item[]
  /** Resolves when all connections have been checked. */
  checked: Promise<void>
  /** The slice was given up: its connections that are not checked yet must be closed. */
  released: boolean
}

/** Receives connections from a draining process. This process does not read from them until the sender, or the move log, confirms that the sender has released them. */
export class ConnectionReceiver {
  readonly #options: ConnectionReceiverOptions
  #machine = initialMoveIn()
  #slice: HeldSlice = { items: [], checked: Promise.resolve(), released: false }
  #adopting: Promise<void> = Promise.resolve()
  #decision: Limit | undefined
  #over = false
  /** The work of this process for moves until the last acknowledgement. */
  #workedMs: number
  /** The connections of the first wave, or null after it. */
  #witnesses: Witness[] | null = []

  constructor(options: ConnectionReceiverOptions) {
    this.#options = options
    this.#workedMs = options.counts.receiving.totalMs
  }

  start(): void {
    const { link, counts } = this.#options
    link.channel.unref()
    link.start({
      message: ({ prepare, moved, firstWave }, fds) =>
        counts.receiving.run(() => {
          if (prepare) this.#prepared(prepare.slice ?? 0, prepare.connections ?? [], fds)
          else {
            closeAll(fds)
            if (moved) this.#step({ type: 'moved', slice: moved.slice ?? 0 })
            else if (firstWave) this.#prove(firstWave.healthyMs ?? 0)
          }
        }),
      broken: error => {
        this.#options.reportError(error, 'an older process violates the protocol for moving connections')
        this.#doubt()
      },
      end: error => {
        // If the sender has left, the move log shows the owner of each slice. Any other error may be a lack of descriptors.
        if (error !== null && !peerLeft(error))
          this.#options.reportError(
            error,
            'the channel over which an older process sends its connections has failed: no more of them arrive over it',
          )
        this.#doubt()
      },
    })
  }

  /** Takes no more connections, because this process stops serving. The move log decides whether a held slice belongs to this process. */
  stop(): Promise<void> {
    this.#resolveDoubt('alive')
    return this.#adopting
  }

  #step(event: MoveInEvent): void {
    const { state, effects } = stepMoveIn(this.#machine, event)
    this.#machine = state
    for (const effect of effects) this.#perform(effect)
  }

  #perform(effect: MoveInEffect): void {
    switch (effect.type) {
      case 'acknowledge':
        // #prepared() sends the Ack when the connections are checked and the previous slice is adopted.
        return
      case 'adopt':
        this.#adopt(effect.slice)
        return
      case 'release':
        this.#release()
        return
      case 'consult':
        this.#step({ ...effect, type: 'log', record: this.#consult(effect.slice) })
        return
    }
  }

  #consult(slice: number): 'moved' | 'back' | 'nothing' {
    const { log, reportError } = this.#options
    try {
      log.seal()
      return log.read(slice)
    } catch (error) {
      reportError(error, 'the move log cannot be read: the older process keeps its connections')
      return 'back'
    }
  }

  #prepared(slice: number, connections: readonly WireMoving[], fds: OwnedFd[]): void {
    const before = this.#machine.held
    if (this.#over || before !== 0 || slice === 0) {
      closeAll(fds)
      return
    }
    const refused: WireRefusal[] = []
    const held: HeldSlice = { items: [], checked: Promise.resolve(), released: false }
    const arrived = connections.map((wire, index) => ({ index, wire, own: fds.splice(0, wire.fds ?? 0) }))
    closeAll(fds)
    this.#slice = held
    this.#step({ type: 'prepare', slice })
    held.checked = runInTurns(arrived, this.#options.counts.receiving, ({ index, wire, own }) => {
      try {
        if (held.released) closeAll(own)
        else held.items.push(this.#itemOf(wire, own))
      } catch (error) {
        closeAll(own)
        const { code, message } = FdbError.from(error, 'ERR_FDB_CONNECTION')
        refused.push({ index, code, message })
      }
    })
    // The previous slice is adopted before the next is acknowledged, so that the sender does not send faster than this process adopts.
    void Promise.all([held.checked, this.#adopting]).then(() => {
      if (this.#over) return
      const worked = this.#workedSinceAck()
      this.#options.link.post({ prepareAck: { slice, refused, waves: true, returns: true, worked } })
      this.#decision = afterReading(DECISION_MS, () => this.#resolveDoubt('alive'), { unref: true })
    })
  }

  /** In microseconds. */
  #workedSinceAck(): number {
    const { totalMs } = this.#options.counts.receiving
    const worked = Math.round(1000 * (totalMs - this.#workedMs))
    this.#workedMs = totalMs
    return worked
  }

  #itemOf(
    { listener, address, protocol, record, fds: announced }: WireMoving,
    fds: readonly OwnedFd[],
  ): Item {
    const bytes = record ?? new Uint8Array(0)
    if (fds.length !== announced || fds.length === 0 || fds.length > MAX_CONNECTION_FDS) {
      throw new FdbError(
        'ERR_FDB_FDS_MISSING',
        `a connection announces ${announced ?? 0} descriptors and arrived with ${fds.length}; 1 to ${MAX_CONNECTION_FDS} are possible`,
      )
    }
    if (bytes.length > MAX_RECORD_BYTES) {
      throw new FdbError(
        'ERR_FDB_CONNECTION',
        `the record of a connection has ${bytes.length} bytes, more than ${MAX_RECORD_BYTES}`,
      )
    }
    const moving = this.#options.target(listener ?? '', protocol ?? '', address ?? '')
    if (moving === undefined) {
      throw new FdbError(
        'ERR_FDB_NO_TARGET',
        `this version has no server for protocol ${protocol} on listener "${listener}": the connection stays in the older process until it ends`,
      )
    }
    const departure = moving.check(bytes, fds) ?? { record: bytes, fds }
    return { source: { listener: listener ?? '', address: address ?? '', moving }, departure }
  }

  #adopt(slice: number): void {
    this.#decision?.clear()
    const { items, checked } = this.#slice
    const { counts, reportError } = this.#options
    const returned: Item[] = []
    const adopt = (item: Item) => {
      const { source, departure } = item
      try {
        const witness = source.moving.arrive(departure, 'moved')
        if (witness !== undefined && this.#witnesses !== null) this.#witnesses.push(witness)
        counts.arrivedKinds.add(kindOf(item))
      } catch (error) {
        if (error instanceof NotRestored)
          returned.push({ source, departure: { record: departure.record, fds: [error.fd] } })
        else {
          counts.lost++
          reportError(error, 'a connection of an older process could not be continued and is closed')
        }
      }
    }
    this.#adopting = Promise.all([this.#adopting, checked])
      .then(() => runInTurns(items, counts.receiving, adopt))
      .then(() => this.#giveBack(slice, returned))
  }

  /** Tells the sender that the slice is adopted, and gives those connections back that the application could not restore. */
  #giveBack(slice: number, items: readonly Item[]): void {
    const { counts, link, reportError } = this.#options
    const returned = items.map(({ source, departure }) => toWire(source, departure))
    link
      .send({ adopted: { slice, returned } }, fdsOf(items))
      .catch(error => {
        counts.lost += items.length
        if (items.length > 0)
          reportError(
            error,
            'connections whose hook has thrown cannot go back to the older process: they are closed',
          )
      })
      .finally(() => closeItems(items))
  }

  #release(): void {
    this.#decision?.clear()
    const held = this.#slice
    held.released = true
    closeItems(held.items)
  }

  /** Reports to the sender when the first wave has been served; then the remaining connections follow. */
  #prove(healthyMs: number): void {
    void this.#adopting.then(async () => {
      const witnesses = this.#witnesses ?? []
      this.#witnesses = null
      const proof = await waitForProof(witnesses, Math.min(healthyMs, MOST_HEALTHY_MS), () => this.#over)
      if (!this.#over) this.#options.link.post({ waveProved: proof })
    })
  }

  #doubt(): void {
    if (this.#over) return
    if (this.#machine.held === 0) {
      this.#end()
      return
    }
    void fateOf(this.#options.sender).then(fate => this.#resolveDoubt(fate))
  }

  #resolveDoubt(sender: 'alive' | 'dead'): void {
    if (this.#over) return
    this.#step({ type: 'doubt', sender })
    this.#end()
  }

  #end(): void {
    this.#over = true
    this.#decision?.clear()
    const { link, log, sender, onEnded } = this.#options
    link.close()
    log.close()
    if (typeof sender !== 'number') sender.close()
    void this.#adopting.then(onEnded)
  }
}
