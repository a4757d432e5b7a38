import { chmodSync } from 'node:fs'
import type { HolderState } from '../../handoff/holder-machine.js'
import type { MemberState } from '../../handoff/member-machine.js'
import { type Caller, isForeign, receiveHello } from '../../holder/admission.js'
import { foreignConnections, type OwnedFd, peerCredentials } from '../../kernel/index.js'
import {
  controlEntry,
  type FirstControl,
  NO_ENTRY,
  type PathEntry,
  removeControl,
  removeDeadControl,
} from '../../os/control-path.js'
import { outOfDescriptors } from '../../os/limits.js'
import { ControlWatch, type HeldControl, type RestoredControl } from '../../os/restore-control.js'
import { fdbroker } from '../../proto/wire.js'
import type { BundleItem } from '../../wire/bundle.js'
import { ControlListener } from '../../wire/control-listener.js'
import { sendLast } from '../../wire/frame.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { Settings } from '../options/options.js'
import type { ControlClients } from './control-clients.js'

/** Stands for the missing entry of a path that was removed before this process got the socket. Matches no existing file. */
const NOT_THERE: PathEntry = { dev: 0n, ino: 0n }

const { Envelope } = fdbroker.wire

/** The `spec` of a control socket that a service manager has bound. */
const PASSED = 'passed'
/** The time in which a client must send Hello. */
const HELLO_MS = 5_000
/** After the Commit only the successor accepts, normally within milliseconds. If it is stopped, this process accepts again after this time. */
const SLOW_MS = 1_000

export interface ControlSocketDeps {
  readonly settings: Pick<Settings, 'control' | 'logger' | 'reception' | 'service' | 'versions'>
  readonly machine: {
    readonly member: Pick<MemberState, 'accepting'>
    readonly holder: Pick<HolderState, 'phase'> | null
  }
  readonly shutdown: Pick<Shutdown, 'closing' | 'over'>
  readonly hosting: () => Pick<Hosting, 'holder'>
  readonly clients: Pick<ControlClients, 'dismissOlder' | 'receive' | 'refuseLeaving'>
}

/** The control socket of an embedded holder, or of a daemon. Owns the socket, its lock file and its reservation. */
export class ControlSocket {
  readonly #deps: ControlSocketDeps
  #listener: ControlListener | null = null
  #keepsAlive = true
  #lock: OwnedFd | null = null
  #reservation: OwnedFd | null = null
  #entry: PathEntry | null = null
  /** Runs after the Commit, while only the successor accepts. */
  #successorTimer: NodeJS.Timeout | undefined
  readonly #watch: ControlWatch

  constructor(deps: ControlSocketDeps) {
    this.#deps = deps
    const { logger } = deps.settings
    this.#watch = new ControlWatch({
      control: () => this.#heldControl,
      restored: control => this.#moveTo(control),
      accept: () => this.open(),
      logger,
    })
  }

  /** Takes ownership of the given descriptors, and closes those that they replace. */
  adopt(control: Partial<Omit<FirstControl, 'role' | 'path'>> & { spec?: string }): void {
    const { listener, lock, reservation = null, spec } = control
    const entry = control.entry ?? (spec === PASSED || this.#entry === NO_ENTRY ? NO_ENTRY : undefined)
    if (listener !== undefined) {
      this.#listener?.stop()
      this.#listener?.fd.close()
      this.#listener = new ControlListener(listener)
      this.keepAlive(this.#keepsAlive)
    }
    if (lock !== undefined) {
      this.#lock?.close()
      this.#lock = lock
    }
    if (reservation !== null) {
      this.#reservation?.close()
      this.#reservation = reservation
    }
    const path = this.#deps.settings.control
    this.#entry = entry ?? (path === null ? null : controlEntry(path))
  }

  /** Sets whether the socket keeps the process alive while it waits for clients. Default true. */
  keepAlive(on: boolean): void {
    this.#keepsAlive = on
    if (on) this.#listener?.ref()
    else this.#listener?.unref()
  }

  /** Returns the descriptors for a successor. Borrowed. */
  items(): BundleItem[] {
    const items: BundleItem[] = []
    // If a service manager owns the path, the successor must not remove it either.
    const spec = this.#entry === NO_ENTRY ? PASSED : ''
    if (this.#listener !== null) items.push({ role: 'control', spec, fd: this.#listener.fd })
    if (this.#lock !== null) items.push({ role: 'lock', fd: this.#lock })
    if (this.#reservation !== null) items.push({ role: 'reservation', fd: this.#reservation })
    return items
  }

  open(): void {
    if (this.#listener === null) return
    if (this.#listener.accepting) {
      // None was free, perhaps, when it was taken last.
      this.#listener.reserveSpare()
      return
    }
    this.#watch.start()
    const { reception, service, versions, logger } = this.#deps.settings
    const mayConnect = (uid: number) => reception?.mayConnect(uid) ?? false
    const named = reception === null ? service : null
    const connected = (uid: number, closed: Promise<void>) => reception?.connected(uid, closed) ?? null
    const foreignUserOf = (uid: number) => reception?.foreignUserOf(uid)
    const rules = { mayConnect, connected, foreignUserOf }
    const admission = { service: named, versions, logger, timeoutMs: HELLO_MS, ...rules }
    this.adjust()
    const receive = (caller: Caller) => (reception ?? this.#deps.clients).receive(caller)
    this.#listener.start({
      channel: (fd, who) => receiveHello(fd, who, admission, receive),
      crowded: (fd, cause) => {
        if (isForeign(peerCredentials(fd))) fd.countAs(foreignConnections)
        const error = outOfDescriptors('the connection to the control socket cannot be kept', cause)
        const { code, message, retryable } = error
        sendLast(fd, Envelope.encode({ reject: { code, message, retryable } }).finish())
      },
      error: error => logger.error({ err: error }, 'a connection to the control socket was not accepted'),
    })
  }

  /** In a daemon: sets the permissions that its access rules need, unless a service manager owns the path. */
  adjust(): void {
    const { control, reception, logger } = this.#deps.settings
    if (reception === null || control === null || this.#entry === null || this.#entry === NO_ENTRY) return
    try {
      chmodSync(control, reception.controlMode)
    } catch (err) {
      logger.warn({ err, control }, 'the permissions of the control socket cannot be set and are unchanged')
    }
  }

  /**
   * If `leaves`, stops accepting for at most {@link SLOW_MS}: after the Commit the successor accepts, because it knows first that it serves.
   * Otherwise accepts again, if this process serves.
   */
  leaveToSuccessor(leaves: boolean): void {
    if (leaves === (this.#successorTimer !== undefined)) return
    clearTimeout(this.#successorTimer)
    this.#successorTimer = undefined
    const accept = () => {
      if (!this.#deps.machine.member.accepting) return
      try {
        this.open()
      } catch (err) {
        const { control, logger } = this.#deps.settings
        logger.error(
          { err, control },
          'the control socket accepts no connections yet: retrying until it does',
        )
        this.#successorTimer = setTimeout(accept, SLOW_MS)
      }
    }
    if (leaves) {
      this.#listener?.stop()
      this.#successorTimer = setTimeout(accept, SLOW_MS)
    } else accept()
  }

  /** Looks at once whether the path is still this socket's: this process decides from now on. */
  check(): void {
    setImmediate(() => this.#watch.check())
  }

  /** Stops accepting but keeps the socket. Closes the connections of older generations, which then connect to the serving process. */
  close(): void {
    this.#watch.stop()
    clearTimeout(this.#successorTimer)
    this.#successorTimer = undefined
    this.#listener?.stop()
    this.#deps.clients.dismissOlder()
  }

  /** The control socket that the watch may restore. Null during a handoff, because a successor may have the descriptors. */
  get #heldControl(): HeldControl | null {
    const { machine, settings, shutdown } = this.#deps
    const hosting = this.#deps.hosting()
    const [path, lock, entry] = [settings.control, this.#lock, this.#entry ?? NOT_THERE]
    if (path === null || lock === null || shutdown.closing || shutdown.over) return null
    if (hosting.holder === null || machine.holder?.phase !== 'idle') return null
    return { path, lock, entry, reservation: this.#reservation }
  }

  #moveTo({ entry, listener, lock, reservation }: RestoredControl): void {
    this.adopt({ entry, reservation, ...(lock !== null && { lock }), ...(listener !== null && { listener }) })
  }

  /** Removes the path, because the service ends. Leaves a path that another socket has taken. */
  removePath(): void {
    const { control: path, logger } = this.#deps.settings
    if (path !== null && this.#lock !== null && this.#entry !== null) {
      removeControl({ path, lock: this.#lock, entry: this.#entry }, logger)
    }
  }

  /**
   * Closes all descriptors, and rejects waiting joiners. Then calls `ended` and removes the path if no other process of the service has the
   * lock: if successor and standby leave at the same time, each expects the other to serve on, and only the kernel knows the last one.
   */
  release(ended: () => void): void {
    this.close()
    this.#deps.clients.refuseLeaving()
    const locked = this.#lock !== null
    // Connections of other users may wait in its queue, with descriptors whose close waits.
    if (this.#deps.settings.reception !== null) this.#listener?.fd.countAs(foreignConnections)
    this.#listener?.fd.close()
    this.#lock?.close()
    this.#reservation?.close()
    this.#listener = null
    this.#lock = null
    this.#reservation = null
    const { control: path } = this.#deps.settings
    if (locked && path !== null && this.#entry !== NO_ENTRY) removeDeadControl(path, ended)
  }
}
