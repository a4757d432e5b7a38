import type { HolderState } from '../../handoff/holder-machine.js'
import type { MemberState } from '../../handoff/member-machine.js'
import { isReplaced } from '../../handoff/phases.js'
import type { BundleItem } from '../../wire/bundle.js'
import type { CannotServe } from '../lifecycle/cannot-serve.js'
import { DescriptorShortage, fencedError, isDescriptorShortage } from '../lifecycle/cannot-serve.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { Settings } from '../options/options.js'
import type { FollowedState } from './followed-state.js'
import type { OwnState } from './own-state.js'
import type { SegmentLoader } from './segment-loader.js'
import { WriteForwarder } from './write-forwarder.js'

/** The connection to the process that serves, over which changes are forwarded. */
export interface WriteConnection {
  /** Starts to connect. Returns false if the process that serves does not accept forwarded changes. */
  open(): boolean
  reconnect(): void
}

/** The changes that the application requests. */
export interface RequestedChanges {
  /** Resolves when all of them are made. */
  settled(): Promise<void>
  /** The state that they change, if it is that of another service. */
  readonly followed: Pick<FollowedState, 'startForwarding'> | null
}

export interface FencedWritesDeps {
  readonly settings: Pick<Settings, 'logger' | 'timeout'>
  readonly machine: Pick<Machine, 'changes' | 'phase' | 'sealed'> & {
    readonly member: Pick<MemberState, 'epoch' | 'link' | 'scope'>
    readonly holder: Pick<HolderState, 'phase'> | null
  }
  readonly shutdown: Pick<Shutdown, 'closing' | 'order' | 'over'> & {
    readonly cannotServe: Pick<CannotServe, 'unfitError'>
  }
  readonly state: Pick<OwnState, 'file' | 'log'> & { readonly loader: Pick<SegmentLoader, 'follow' | 'take'> }
  readonly connection: WriteConnection
  readonly changes: RequestedChanges
}

/** If the service ends, the last changes must reach the state file within this time. */
const FILE_END_MS = 10_000

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
    this.#forwardFollowed()
    if (this.#keepsWriting) return
    this.#forwardOrRefuse()
    if (this.#deps.machine.sealed) this.#deps.state.file?.stop()
    return this.#deps.state.loader.follow().catch(error => {
      if (!isDescriptorShortage(error)) throw error
      this.#shortage.retryLater(error, () => this.followOn())
    })
  }

  /**
   * Called before the last connections drain: until they have ended, this process keeps writing, or forwards their changes. The result resolves when
   * those changes are made, and the state file is complete if this process keeps writing.
   */
  leave(): (drained: Promise<void>) => Promise<unknown> {
    this.#forwardFollowed()
    const { changes, machine, shutdown, state } = this.#deps
    const toTheEnd = this.#keepsWriting
    if (toTheEnd) state.file?.watchForReplacement(() => state.log.endWriting(this.#fencedError()))
    else {
      // Changes may wait in the queue, if this process accepted without the right to write.
      this.#forwardOrRefuse()
      this.followOn()
    }
    return drained => {
      // The last clients may have made changes just before they left.
      const made = drained.then(() => shutdown.order.untilEnd(machine.changes, changes.settled()))
      const file = async () => {
        if (toTheEnd) await made
        await state.file?.finish(FILE_END_MS)
      }
      return Promise.all([made, file()])
    }
  }

  /** Adds newer segments, from which this process answers while it drains. Takes ownership. */
  takeNewer(items: readonly BundleItem[]): void {
    const { shutdown, state } = this.#deps
    state.loader.take(items, shutdown.over)
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

  /** Starts to forward changes, or refuses them if the process that serves does not accept any. */
  forward(): void {
    this.forwarder.start(this.#fencedError())
    if (!this.#deps.connection.open()) this.forwarder.refuse()
  }

  /** Changes of a followed state wait until this process serves. One that another process replaces before that may have clients too. */
  #forwardFollowed(): void {
    this.#deps.changes.followed?.startForwarding()
  }

  #forwardOrRefuse(): void {
    const { machine, shutdown } = this.#deps
    const isUnfit = machine.phase === 'unfit'
    // The incumbent may serve again: the changes wait for that, and are forwarded when this process leaves.
    if (isUnfit && machine.member.scope === 'holder' && machine.member.link !== 'local')
      this.forwarder.start(this.#fencedError())
    // If this process is alone and not closing, it could not start to write, and no other process can.
    else if (isUnfit || (this.#alone && !shutdown.closing)) {
      this.forwarder.end()
      this.#deps.state.log.endWriting(shutdown.cannotServe.unfitError())
    } else this.forward()
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
