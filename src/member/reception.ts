import { ControlListener } from '../channel/control-listener.js'
import { FdbError } from '../errors.js'
import { closeAll, type OwnedFd } from '../fd/index.js'
import { type Caller, receiveHello, reject, welcome } from '../holder/admission.js'
import type { Holder } from '../holder/holder.js'
import { type Operations, serveOperator } from '../holder/operator.js'
import type { SegmentShelf } from '../holder/segment-shelf.js'
import { controlEntry, type PathEntry, removeControl } from '../process/control-path.js'
import { pidOf } from '../process/liveness.js'
import { endsWithUs } from '../process/main-process.js'
import type { BundleItem } from '../protocol/bundle.js'
import type { StateLog } from '../state/state-log.js'
import { Drainers } from './drainers.js'
import type { DrainReport } from './draining.js'
import type { ForcedClose } from './forced-closes.js'
import type { Moves } from './moves.js'
import type { Settings } from './options.js'
import { refuseMainProcess } from './upgrade.js'

/** A connection that says nothing is not kept. */
const HELLO_MS = 5_000

/** What the process that is called on must be able to do. */
export interface Host {
  readonly settings: Settings
  readonly generation: number
  readonly serviceStartedAt: number
  readonly operations: Operations
  readonly shelf: SegmentShelf
  readonly moves: Moves
  readonly state: StateLog
  /** Null before this process decides for itself. */
  holder(): Holder | null
  closing(): boolean
  /** Who decides here and says nothing. */
  stuckElder(): number | null
  /** Have the elder release as soon as that is safe: somebody waits. */
  hurry(): void
}

/** The control socket of an embedded holder: owns it and its lock, and receives who calls. */
export class Reception {
  readonly #host: Host
  readonly #drainers: Drainers
  #listener: ControlListener | null = null
  #lock: OwnedFd | null = null
  #entry: PathEntry | null = null
  /** Joiners that came before this process was its own master. */
  #waiting: Caller[] = []

  constructor(host: Host) {
    this.#host = host
    this.#drainers = new Drainers(host)
  }

  /** Takes the listener and the lock, from the start-up race or from the elder; earlier ones are closed. */
  take(control: { listener?: OwnedFd; lock?: OwnedFd; entry?: PathEntry }): void {
    const { listener, lock, entry } = control
    if (listener !== undefined) {
      this.#listener?.stop()
      this.#listener?.fd.close()
      this.#listener = new ControlListener(listener)
    }
    if (lock !== undefined) {
      this.#lock?.close()
      this.#lock = lock
    }
    const path = this.#host.settings.control
    this.#entry = entry ?? (path === null ? null : controlEntry(path))
  }

  /** New segments were made. */
  supplyDrainers(): void {
    this.#drainers.share()
  }

  /** What older generations closed at the end of their drains. */
  get closedByElders(): readonly ForcedClose[] {
    return this.#drainers.closed
  }

  /** The older generations that report here. */
  get drainers(): DrainReport[] {
    return this.#drainers.reports
  }

  /** For a successor. Borrowed. */
  items(): BundleItem[] {
    const items: BundleItem[] = []
    if (this.#listener !== null) items.push({ role: 'control', fd: this.#listener.fd })
    if (this.#lock !== null) items.push({ role: 'lock', fd: this.#lock })
    return items
  }

  open(): void {
    if (this.#listener === null || this.#listener.accepting) return
    const { service, versions, logger } = this.#host.settings
    const admission = { service, versions, logger, timeoutMs: HELLO_MS }
    this.#listener.start({
      channel: (fd, who) => receiveHello(fd, who, admission, guest => this.#receive(guest)),
      error: error => logger.error({ err: error }, 'accepting on the control socket failed'),
    })
  }

  /** Accepts no more; who reports here connects to whoever serves next. The socket stays. */
  close(): void {
    this.#listener?.stop()
    this.#drainers.close()
  }

  /** The service ends: the path goes, if it still is ours. */
  removePath(): void {
    const path = this.#host.settings.control
    if (path !== null && this.#lock !== null && this.#entry !== null) {
      removeControl({ path, lock: this.#lock, entry: this.#entry })
    }
  }

  /** Lets go of socket and lock: who waits here for this process's turn waits in vain. */
  release(): void {
    this.close()
    this.#refuseWaiting()
    this.#listener?.fd.close()
    this.#lock?.close()
    this.#listener = null
    this.#lock = null
  }

  /** This process is its own master now. */
  admitWaiting(): void {
    for (const guest of this.#waiting.splice(0)) setImmediate(() => this.#admit(guest))
  }

  #refuseWaiting(): void {
    const why = `process ${process.pid}, which was to hand over, leaves: try again`
    for (const guest of this.#waiting.splice(0))
      refuse(guest, new FdbError('ERR_FDB_BUSY', why, { retryable: true }))
  }

  #receive(guest: Caller): void {
    switch (guest.intent) {
      case 'operate':
        guest.pidfd?.close()
        welcome(guest.link, { version: guest.version, pid: process.pid, generation: this.#host.generation })
        serveOperator(guest.link, this.#host.operations)
        return
      case 'draining':
        this.#drainers.add(guest)
        return
      case 'back':
        refuse(
          guest,
          new FdbError(
            'ERR_FDB_NOT_A_DAEMON',
            `process ${process.pid} holds its sockets itself; there is no daemon here to come back to`,
          ),
        )
        return
      case 'join':
        this.#receiveJoiner(guest)
        return
    }
  }

  #receiveJoiner(guest: Caller): void {
    const host = this.#host
    const first = this.#waiting[0]
    if (host.closing() || (host.holder() === null && first !== undefined)) {
      const why =
        first === undefined ? `process ${process.pid} is closing` : `process ${first.pid} is joining already`
      refuse(guest, new FdbError('ERR_FDB_BUSY', `${why}: try again`, { retryable: true }))
      return
    }
    const stuck = host.stuckElder()
    if (stuck !== null) {
      const why = `process ${stuck} stands by and does not answer (it is stopped, or stuck): continue it, or end it (fd-broker upgrade --kill-stuck)`
      refuse(guest, new FdbError('ERR_FDB_BUSY', why, { retryable: true }))
      return
    }
    const refusal = this.#refusal(guest)
    if (refusal !== null) {
      refuse(guest, refusal)
      return
    }
    welcome(guest.link, {
      version: guest.version,
      pid: process.pid,
      daemon: false,
      generation: host.generation + 1,
      serviceStartedAt: host.serviceStartedAt,
      heartbeatMs: host.settings.times.heartbeat,
    })
    if (host.holder() !== null) {
      this.#admit(guest)
      return
    }
    // Not yet our own master: ask the elder to release as soon as that is safe, or wait until we serve.
    this.#waiting.push(guest)
    guest.link.start({
      message: (_envelope, fds) => closeAll(fds),
      broken: () => this.#drop(guest),
      end: () => this.#drop(guest),
    })
    host.hurry()
  }

  /** One that would end with this process, when nobody has said that this process stays. */
  #refusal({ pid, pidfd }: Caller): FdbError | null {
    const here = pidfd === null || pidOf(pidfd) === pid
    if (!here || !endsWithUs(pid)) return null
    try {
      refuseMainProcess(this.#host, `process ${pid}`)
      return null
    } catch (error) {
      return error as FdbError
    }
  }

  #drop(guest: Caller): void {
    this.#waiting = this.#waiting.filter(other => other !== guest)
    guest.link.close()
    guest.pidfd?.close()
  }

  #admit(guest: Caller): void {
    const holder = this.#host.holder()
    if (!guest.link.open || holder === null) {
      this.#drop(guest)
      return
    }
    const { link, pid, pidfd, proven, identity } = guest
    holder.admit({ link, pid, pidfd, proven, identity, generation: this.#host.generation + 1 })
  }
}

function refuse(guest: Caller, error: FdbError): void {
  guest.pidfd?.close()
  reject(guest.link, error)
}
