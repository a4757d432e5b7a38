import { Segment } from '../state/segment.js'
import type { BundleItem } from '../wire/bundle.js'
import { fenced, isShortOfDescriptors, ShortOfDescriptors } from './cannot-serve.js'
import type { MemberContext } from './member-context.js'
import type { OwnState } from './own-state.js'
import { WriteRedirect } from './writes/redirect.js'

/** The connection to the process that serves, by which changes go. */
export interface WriteConnection {
  /** Starts to connect. Returns false if no process takes changes of this one. */
  open(): boolean
  reconnect(): void
}

/** Redirects the changes of a process that has lost the right to write, and reads those of others. */
export class FencedWrites {
  readonly forwarder: WriteRedirect
  readonly #shared: MemberContext
  readonly #state: OwnState
  readonly #connection: WriteConnection
  readonly #short: ShortOfDescriptors

  constructor(shared: MemberContext, state: OwnState, connection: WriteConnection) {
    this.#shared = shared
    this.#state = state
    this.#connection = connection
    this.#short = new ShortOfDescriptors('newer state cannot be taken', shared.settings.logger)
    this.forwarder = new WriteRedirect(state.log, shared.settings.timeout, () => connection.reconnect())
  }

  /** This process writes itself. */
  begun(): void {
    this.forwarder.end()
  }

  /** Another was given the right to write, or it was taken from this process. */
  end(): void | Promise<void> {
    if (this.#toTheEnd) return
    this.#handOver()
    if (this.#shared.machine.sealed) this.#state.file?.stop()
    return this.#state.keeper.follow()
  }

  /** The last connections drain. Whether what they came for is changed here, to the end. */
  leave(): boolean {
    const toTheEnd = this.#toTheEnd
    if (toTheEnd) this.#state.file?.watchForReplacement(() => this.#state.log.endWriting(this.#fenced()))
    // A process that accepted without the right to write has changes that wait for it.
    else this.#handOver()
    return toTheEnd
  }

  /** Is our segment sealed? Then the machine wants to know. */
  checkSeal(): void {
    const { shutdown, machine } = this.#shared
    if (shutdown.over || !machine.sealed) return
    if (shutdown.closing && machine.phase === 'leaving') this.#forward()
    else machine.step({ type: 'sealed' })
  }

  /** Segments for one that drains: what is written there is the state that it answers from. Takes them. */
  takeNewer(items: readonly BundleItem[]): void {
    const { shutdown, settings, segmentSet } = this.#shared
    for (const { role, epoch = 0, fd } of items) {
      try {
        if (shutdown.over || role !== 'segment' || epoch <= segmentSet.top) fd.close()
        else segmentSet.put(Segment.open(fd), false)
      } catch (error) {
        settings.logger.warn({ err: error }, 'newer state came in a segment that cannot be taken')
      }
    }
    this.followOn()
  }

  /** Newer segments are here. */
  followOn(): void {
    const { shutdown, machine, settings } = this.#shared
    if (shutdown.over || (machine.phase !== 'standby' && machine.phase !== 'leaving')) return
    if (shutdown.closing && !this.forwarder.active) return
    this.#state.keeper.follow().then(
      () => this.#short.over(),
      error => {
        if (shutdown.over) return
        if (isShortOfDescriptors(error)) this.#short.failed(error, () => this.followOn())
        else
          settings.logger.warn(
            { err: error },
            'newer state cannot be read: answers here may be of an older one',
          )
      },
    )
  }

  /** Changes go to the process that serves, also those of a process that was cut off. */
  #handOver(): void {
    const { machine, unfitness } = this.#shared
    if (machine.phase !== 'unfit' && !this.#servedByNone) this.#forward()
    else {
      this.forwarder.end()
      this.#state.log.endWriting(unfitness.refusal())
    }
  }

  #forward(): void {
    this.forwarder.start(this.#fenced())
    if (!this.#connection.open()) this.forwarder.refuse()
  }

  /** The service ends in order, without a successor: the last clients may still change the state. */
  get #toTheEnd(): boolean {
    const { shutdown, machine } = this.#shared
    return shutdown.closing && this.#alone && !machine.sealed
  }

  /** The process could not come to serve, and there is no other. */
  get #servedByNone(): boolean {
    return this.#alone && !this.#shared.shutdown.closing
  }

  get #alone(): boolean {
    const { holder, member } = this.#shared.machine
    return member.link === 'local' && holder?.phase === 'idle'
  }

  #fenced() {
    return fenced(this.#shared.machine.member.epoch)
  }
}
