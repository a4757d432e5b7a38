import { FdbError } from '../errors.js'
import { initialMoveIn, type MoveInEffect, type MoveInEvent, stepMoveIn } from '../handoff/move-machine.js'
import { closeAll, type OwnedFd } from '../kernel/index.js'
import { fateOf } from '../os/process-identity.js'
import type { fdbroker } from '../proto/wire.js'
import type { Link } from '../wire/link.js'
import type { MoveCounts } from './counts.js'
import { MAX_CONNECTION_FDS, MAX_RECORD_BYTES, type MovableConnections, type Witness } from './movable.js'
import type { MoveLog } from './move-log.js'
import { closeItems, type Item, inTurns, waitForProof } from './move-slice.js'

/** After an acknowledgement the sender decides at once; when it has not after so long, the log is asked. */
const DECISION_MS = 5_000
/** The most that a sender may ask for. */
const MOST_HEALTHY_MS = 60_000

export interface ConnectionReceiverOptions {
  /** To the sender alone. Owned. */
  readonly link: Link
  /** Owned. */
  readonly log: MoveLog
  /** The sending process; a pid where the kernel has no pidfds. Owned. */
  readonly sender: OwnedFd | number
  /** The server here that goes on with connections of `protocol` on `listener`. */
  readonly target: (listener: string, protocol: string) => MovableConnections | undefined
  readonly counts: MoveCounts
  readonly fault: (error: unknown, message: string) => void
  /** Once, when nothing more comes this way. */
  readonly ended: () => void
}

type WireMoving = fdbroker.wire.Moving.$Properties
type WireRefusal = fdbroker.wire.Refusal.$Properties

/** A slice that was prepared and not decided. Connections that were not looked at yet when it is released are closed in their turn. */
interface HeldSlice {
  readonly items: Item[]
  looked: Promise<void>
  released: boolean
}

/** Takes connections from a draining process. They are held unread until the sender says that it has released them, or the move log does. */
export class ConnectionReceiver {
  readonly #options: ConnectionReceiverOptions
  #machine = initialMoveIn()
  #slice: HeldSlice = { items: [], looked: Promise.resolve(), released: false }
  #adopting: Promise<void> = Promise.resolve()
  #decision: NodeJS.Timeout | undefined
  #over = false
  /** The connections of the first wave; null when that is over. */
  #witnesses: Witness[] | null = []

  constructor(options: ConnectionReceiverOptions) {
    this.#options = options
  }

  start(): void {
    const { link, counts } = this.#options
    link.channel.unref()
    link.start({
      message: ({ prepare, moved, firstWave }, fds) =>
        counts.taking.run(() => {
          if (prepare) this.#prepared(prepare.slice ?? 0, prepare.connections ?? [], fds)
          else {
            closeAll(fds)
            if (moved) this.#step({ type: 'moved', slice: moved.slice ?? 0 })
            else if (firstWave) this.#prove(firstWave.healthyMs ?? 0)
          }
        }),
      broken: error => {
        this.#options.fault(error, 'what an older process sent is no connection')
        this.#doubt()
      },
      end: error => {
        // Null is the usual end. A descriptor too many for this process is one that its operator must hear of.
        if (error !== null)
          this.#options.fault(error, 'the way for connections of an older process has failed')
        this.#doubt()
      },
    })
  }

  /** Takes nothing more: this process does not serve any more. The log decides about held slices. */
  stop(): Promise<void> {
    this.#judged('alive')
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
        return
      case 'adopt':
        this.#adopt()
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
    const { log, fault } = this.#options
    try {
      log.seal()
      return log.read(slice)
    } catch (error) {
      fault(error, 'the move log cannot be read: the older process keeps its connections')
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
    const held: HeldSlice = { items: [], looked: Promise.resolve(), released: false }
    const arrived = connections.map((wire, index) => ({ index, wire, own: fds.splice(0, wire.fds ?? 0) }))
    closeAll(fds)
    this.#slice = held
    this.#step({ type: 'prepare', slice })
    held.looked = inTurns(arrived, this.#options.counts.taking, ({ index, wire, own }) => {
      try {
        if (held.released) closeAll(own)
        else held.items.push(this.#itemOf(wire, own))
      } catch (error) {
        closeAll(own)
        const { code, message } = FdbError.from(error, 'ERR_FDB_CONNECTION')
        refused.push({ index, code, message })
      }
    })
    // One slice is adopted before the next is acknowledged: the sender goes no faster than this process can.
    void Promise.all([held.looked, this.#adopting]).then(() => {
      if (this.#over) return
      this.#options.link.post({ prepareAck: { slice, refused, waves: true } })
      this.#decision = setTimeout(() => this.#judged('alive'), DECISION_MS)
      this.#decision.unref()
    })
  }

  #itemOf({ listener, protocol, record, fds: announced }: WireMoving, fds: readonly OwnedFd[]): Item {
    const bytes = record ?? new Uint8Array(0)
    if (fds.length !== announced || fds.length === 0 || fds.length > MAX_CONNECTION_FDS) {
      throw new FdbError(
        'ERR_FDB_FDS_MISSING',
        `a connection announces ${announced ?? 0} descriptors and brought ${fds.length}; 1 to ${MAX_CONNECTION_FDS} are possible`,
      )
    }
    if (bytes.length > MAX_RECORD_BYTES) {
      throw new FdbError(
        'ERR_FDB_CONNECTION',
        `the record of a connection has ${bytes.length} bytes, more than ${MAX_RECORD_BYTES}`,
      )
    }
    const moving = this.#options.target(listener ?? '', protocol ?? '')
    if (moving === undefined) {
      throw new FdbError(
        'ERR_FDB_NO_TARGET',
        `this version has no server for ${protocol} on listener "${listener}": the connection ends in the process that has it`,
      )
    }
    const departure = moving.check(bytes, fds) ?? { record: bytes, fds }
    return { source: { listener: listener ?? '', moving }, departure }
  }

  #adopt(): void {
    clearTimeout(this.#decision)
    const { items, looked } = this.#slice
    const { counts, fault } = this.#options
    const adopt = ({ source, departure }: Item) => {
      try {
        const witness = source.moving.arrive(departure, 'moved')
        if (witness !== undefined && this.#witnesses !== null) this.#witnesses.push(witness)
        counts.arrived++
      } catch (error) {
        counts.lost++
        fault(error, 'a connection that came from an older process could not be gone on with')
      }
    }
    this.#adopting = Promise.all([this.#adopting, looked]).then(() => inTurns(items, counts.taking, adopt))
  }

  #release(): void {
    clearTimeout(this.#decision)
    const held = this.#slice
    held.released = true
    closeItems(held.items)
  }

  /** The rest follows when those that have come have been served. */
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
    void fateOf(this.#options.sender).then(fate => this.#judged(fate))
  }

  #judged(sender: 'alive' | 'dead'): void {
    if (this.#over) return
    this.#step({ type: 'doubt', sender })
    this.#end()
  }

  #end(): void {
    this.#over = true
    clearTimeout(this.#decision)
    const { link, log, sender, ended } = this.#options
    link.close()
    log.close()
    if (typeof sender !== 'number') sender.close()
    void this.#adopting.then(ended)
  }
}
