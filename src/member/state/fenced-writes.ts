import type { HolderState } from '../../handoff/holder-machine.js'
import type { MemberState } from '../../handoff/member-machine.js'
import { isReplaced } from '../../handoff/phases.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { Segment } from '../../state/segment.js'
import type { BundleItem } from '../../wire/bundle.js'
import type { CannotServe } from '../lifecycle/cannot-serve.js'
import { DescriptorShortage, fencedError, isDescriptorShortage } from '../lifecycle/cannot-serve.js'
import type { Leadership } from '../lifecycle/leadership.js'
import type { Machine } from '../lifecycle/machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { Settings } from '../options/options.js'
import type { OwnState } from './own-state.js'
import type { SegmentLoader } from './segment-loader.js'
import { WriteForwarder } from './write-forwarder.js'

/** The connection to the process that serves, over which changes are forwarded. */
export interface WriteConnection {
  /** Starts to connect. Returns false if the process that serves does not accept forwarded changes. */
  open(): boolean
  reconnect(): void
}

export interface FencedWritesDeps {
  readonly settings: Pick<Settings, 'logger' | 'timeout'>
  readonly machine: Pick<Machine, 'phase' | 'sealed' | 'step'> & {
    readonly member: Pick<MemberState, 'epoch' | 'link' | 'scope'>
    readonly holder: Pick<HolderState, 'phase'> | null
  }
  readonly shutdown: Pick<Shutdown, 'closing' | 'over'>
  readonly segmentSet: Pick<SegmentSet, 'put' | 'top'>
  readonly cannotServe: Pick<CannotServe, 'unfitError'>
  readonly leadership: Pick<Leadership, 'quiesce'>
  readonly state: Pick<OwnState, 'file' | 'log'> & { readonly loader: Pick<SegmentLoader, 'follow'> }
  readonly connection: WriteConnection
}

/** Forwards the changes of this process, which has lost the right to write, and reads the records of the process that has it. */
export class FencedWrites {
  readonly forwarder: WriteForwarder
  readonly #deps: FencedWritesDeps
  readonly #shortage: DescriptorShortage

  constructor(deps: FencedWritesDeps) {
    const { connection, settings, state } = deps
    this.#deps = deps
    this.#shortage = new DescriptorShortage('newer state cannot be received', settings.logger)
    this.forwarder = new WriteForwarder(state.log, settings.timeout, () => connection.reconnect())
  }

  /** Called when this process has lost the right to write: forwards changes, and reads the serving process's records. Does nothing if this process keeps writing. */
  end(): void | Promise<void> {
    if (this.#keepsWriting) return
    this.#forwardOrRefuse()
    if (this.#deps.machine.sealed) this.#deps.state.file?.stop()
    return this.#deps.state.loader.follow().catch(error => {
      if (!isDescriptorShortage(error)) throw error
      this.#shortage.retryLater(error, () => this.followOn())
    })
  }

  /** Called before the last connections drain. Returns whether this process keeps writing until they have ended. */
  leave(): boolean {
    const toTheEnd = this.#keepsWriting
    if (toTheEnd)
      this.#deps.state.file?.watchForReplacement(() => this.#deps.state.log.endWriting(this.#fencedError()))
    else {
      // Changes may wait in the queue, if this process accepted without the right to write.
      this.#forwardOrRefuse()
      this.followOn()
    }
    return toTheEnd
  }

  /** Checks whether this process's segment is sealed, and passes the result to the state machine. */
  checkSeal(): void {
    const { leadership, machine, shutdown } = this.#deps
    if (shutdown.over || !machine.sealed) return
    if (shutdown.closing && machine.phase === 'leaving') this.#forward()
    else {
      // The incumbent has sealed this segment to serve itself. If it is dead, this process starts the work again when it has taken over.
      const { scope, link } = machine.member
      if (scope === 'holder' && link !== 'local') void leadership.quiesce()
      machine.step({ type: 'sealed' })
    }
  }

  /** Adds newer segments, from which this process answers while it drains. Takes ownership. */
  takeNewer(items: readonly BundleItem[]): void {
    const { segmentSet, settings, shutdown } = this.#deps
    for (const { role, epoch = 0, fd } of items) {
      try {
        if (shutdown.over || role !== 'segment' || epoch <= segmentSet.top) fd.close()
        else segmentSet.put(Segment.open(fd), false)
      } catch (error) {
        settings.logger.warn(
          { err: error },
          'a segment with newer state cannot be opened: this process may answer from older state',
        )
      }
    }
    this.followOn()
  }

  /** Reads newer segments, in a phase in which another process may write. Retries if descriptors are short. */
  followOn(): void {
    const { machine, settings, shutdown } = this.#deps
    if (shutdown.over || !isReplaced(machine.phase)) return
    if (shutdown.closing && !this.forwarder.active) return
    // A process that has never served reads only the incumbent's segments: it may have to write in the next one.
    const below = this.forwarder.active || machine.phase !== 'orphan' ? undefined : machine.member.epoch
    this.#deps.state.loader.follow(below).then(
      () => this.#shortage.end(),
      error => {
        if (shutdown.over) return
        if (isDescriptorShortage(error)) this.#shortage.retryLater(error, () => this.followOn())
        else
          settings.logger.warn(
            { err: error },
            'newer state cannot be read: this process may answer from older state',
          )
      },
    )
  }

  #forwardOrRefuse(): void {
    const { cannotServe, machine, shutdown } = this.#deps
    // If this process is alone and not closing, it could not start to write, and no other process can.
    if (machine.phase === 'unfit' || (this.#alone && !shutdown.closing)) {
      this.forwarder.end()
      this.#deps.state.log.endWriting(cannotServe.unfitError())
    } else this.#forward()
  }

  #forward(): void {
    this.forwarder.start(this.#fencedError())
    if (!this.#deps.connection.open()) this.forwarder.refuse()
  }

  /** Whether the service ends without a successor: then the last clients may still change the state. */
  get #keepsWriting(): boolean {
    const { machine, shutdown } = this.#deps
    return shutdown.closing && this.#alone && !machine.sealed
  }

  /** Whether there is no incumbent and no successor. */
  get #alone(): boolean {
    const { holder, member } = this.#deps.machine
    return member.link === 'local' && holder?.phase === 'idle'
  }

  #fencedError() {
    return fencedError(this.#deps.machine.member.epoch)
  }
}
