import { chmodSync } from 'node:fs'
import { FdbError } from '../errors.js'
import { type Caller, dismiss, receiveHello, serveCaller, turnAway, welcome } from '../holder/admission.js'
import { closeAll, type OwnedFd } from '../kernel/index.js'
import type { Operations } from '../operator/requests.js'
import { operationsOnly } from '../operator/service-name.js'
import type { DrainReport, ForcedClose } from '../operator/status-report.js'
import {
  controlEntry,
  type FirstControl,
  NO_ENTRY,
  type PathEntry,
  removeControl,
} from '../os/control-path.js'
import { outOfDescriptors } from '../os/limits.js'
import { pidOf } from '../os/liveness.js'
import { endsWithUs } from '../os/main-process.js'
import { ControlWatch, type HeldControl, type RestoredControl } from '../os/restore-control.js'
import { fdbroker } from '../proto/wire.js'
import type { StateLog } from '../state/state-log.js'
import type { BundleItem } from '../wire/bundle.js'
import { ControlListener } from '../wire/control-listener.js'
import { sendLast } from '../wire/frame.js'
import type { Hosting } from './hosting.js'
import type { MemberContext } from './member-context.js'
import type { Moves } from './moves.js'
import { OlderGenerations } from './older-generations.js'
import { refuseMainProcess } from './options.js'

/** The path was removed before this process took the socket. */
const NOT_THERE: PathEntry = { dev: 0n, ino: 0n }

const { Envelope } = fdbroker.wire

/** Said of a control socket whose path is a service manager's. */
const PASSED = 'passed'
/** A connection that says nothing is not kept. */
const HELLO_MS = 5_000
/** A successor accepts here within milliseconds of its Commit; one that is stopped does not, and the status is to be had. */
const SLOW_MS = 1_000

/** The parts of the process that answer its clients. */
export interface Called {
  readonly shared: MemberContext
  readonly hosting: () => Hosting
  readonly operations: Operations
  readonly moves: Moves
  readonly state: StateLog
  /** Has the standby release as soon as that is safe: a client waits. */
  hurry(): void
}

/** The control socket of an embedded holder: owns it and its lock, and receives who calls. */
export class ControlSocket {
  readonly #called: Called
  readonly #older: OlderGenerations
  #listener: ControlListener | null = null
  #keepsAlive = true
  #lock: OwnedFd | null = null
  #reservation: OwnedFd | null = null
  #entry: PathEntry | null = null
  /** The successor answers clients, or did until this timer ends. */
  #left: NodeJS.Timeout | undefined
  readonly #watch: ControlWatch
  /** Joiners that came before this process was its own master. */
  #waiting: Caller[] = []

  constructor(called: Called) {
    const { generation, serviceStartedAt, segmentSet } = called.shared
    const { moves, state } = called
    this.#called = called
    const { logger } = called.shared.settings
    this.#watch = new ControlWatch({
      place: () => this.#place,
      restored: made => this.#moveTo(made),
      logger,
    })
    this.#older = new OlderGenerations({ generation, serviceStartedAt, segmentSet, moves, state })
  }

  /** Takes what was given of these, from the start-up race or from the incumbent; earlier ones are closed. */
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
    const path = this.#called.shared.settings.control
    this.#entry = entry ?? (path === null ? null : controlEntry(path))
  }

  /** Whether a socket that waits for clients keeps the process alive (it does at first). */
  keepAlive(on: boolean): void {
    this.#keepsAlive = on
    if (on) this.#listener?.ref()
    else this.#listener?.unref()
  }

  /** New segments were made. */
  supplyOlder(): void {
    this.#older.share()
  }

  /** Connections that older generations closed at the end of their drains. */
  get closedByOlder(): readonly ForcedClose[] {
    return this.#older.closed
  }

  /** The older generations that report here. */
  get older(): DrainReport[] {
    return this.#older.reports
  }

  /** The descriptors for a successor. Borrowed. */
  items(): BundleItem[] {
    const items: BundleItem[] = []
    // Where the path is a service manager's, it is so for those after this process too.
    const spec = this.#entry === NO_ENTRY ? PASSED : ''
    if (this.#listener !== null) items.push({ role: 'control', spec, fd: this.#listener.fd })
    if (this.#lock !== null) items.push({ role: 'lock', fd: this.#lock })
    if (this.#reservation !== null) items.push({ role: 'reservation', fd: this.#reservation })
    return items
  }

  open(): void {
    if (this.#listener === null || this.#listener.accepting) return
    this.#watch.start()
    const { reception, service, versions, logger } = this.#called.shared.settings
    const mayConnect = (uid: number) => reception?.mayConnect(uid) ?? false
    const named = reception === null ? service : null
    const connected = (uid: number, closed: Promise<void>) => reception?.connected(uid, closed) ?? null
    const admission = { service: named, versions, logger, timeoutMs: HELLO_MS, mayConnect, connected }
    this.adjust()
    const own = (caller: Caller) => this.#receive(caller)
    const receive = reception === null ? own : (caller: Caller) => reception.receive(caller, own)
    this.#listener.start({
      channel: (fd, who) => receiveHello(fd, who, admission, receive),
      crowded: (fd, cause) => {
        const error = outOfDescriptors('your connection cannot be kept', cause)
        const { code, message, retryable } = error
        sendLast(fd, Envelope.encode({ reject: { code, message, retryable } }).finish())
      },
      error: error => logger.error({ err: error }, 'accepting on the control socket failed'),
    })
  }

  /** The path has the permissions that the reception wants, unless it is a service manager's. */
  adjust(): void {
    const { control, reception, logger } = this.#called.shared.settings
    if (reception === null || control === null || this.#entry === null || this.#entry === NO_ENTRY) return
    try {
      chmodSync(control, reception.controlMode)
    } catch (err) {
      logger.warn({ err, control }, 'the permissions of the control socket cannot be set')
    }
  }

  /** From the Commit on the successor accepts here, and knows before this process that it serves: who calls meanwhile is its, unless it is slow. */
  leaveToSuccessor(leaves: boolean): void {
    if (leaves === (this.#left !== undefined)) return
    clearTimeout(this.#left)
    this.#left = undefined
    const goOn = () => {
      if (this.#called.shared.machine.member.accepting) this.open()
    }
    if (leaves) {
      this.#listener?.stop()
      this.#left = setTimeout(goOn, SLOW_MS)
    } else goOn()
  }

  /** Accepts no more; older generations that report here connect to the process that serves next. The socket stays. */
  close(): void {
    this.#watch.stop()
    clearTimeout(this.#left)
    this.#left = undefined
    this.#listener?.stop()
    this.#older.close()
  }

  /** Only between handoffs: a successor may have been given what there is. */
  get #place(): HeldControl | null {
    const { hosting, shared } = this.#called
    const { shutdown, machine, settings } = shared
    const [path, lock, entry] = [settings.control, this.#lock, this.#entry ?? NOT_THERE]
    if (path === null || lock === null || shutdown.closing || shutdown.over) return null
    if (hosting().holder === null || machine.holder?.phase !== 'idle') return null
    return { path, lock, entry, reservation: this.#reservation }
  }

  #moveTo({ entry, listener, lock, reservation }: RestoredControl): void {
    this.adopt({ entry, reservation, ...(lock !== null && { lock }), ...(listener !== null && { listener }) })
    this.open()
  }

  /** The service ends: the path goes, if it still is ours. */
  removePath(): void {
    const { control: path, logger } = this.#called.shared.settings
    if (path !== null && this.#lock !== null && this.#entry !== null) {
      removeControl({ path, lock: this.#lock, entry: this.#entry }, logger)
    }
  }

  /** Lets go of socket and lock: who waits here for this process's turn waits in vain. */
  release(): void {
    this.close()
    this.#refuseWaiting()
    this.#listener?.fd.close()
    this.#lock?.close()
    this.#reservation?.close()
    this.#listener = null
    this.#lock = null
    this.#reservation = null
  }

  /** This process is its own master now. */
  admitWaiting(): void {
    setImmediate(() => this.#watch.check())
    for (const caller of this.#waiting.splice(0)) setImmediate(() => this.#admit(caller))
  }

  #refuseWaiting(): void {
    const why = `process ${process.pid}, which was to hand over, leaves: try again`
    for (const caller of this.#waiting.splice(0))
      turnAway(caller, new FdbError('ERR_FDB_BUSY', why, { retryable: true }))
  }

  #receive(caller: Caller): void {
    switch (caller.intent) {
      case 'operate': {
        const { operations, shared } = this.#called
        serveCaller(caller, operationsOnly(shared.settings, operations), { generation: shared.generation })
        return
      }
      case 'draining':
        this.#older.add(caller)
        return
      case 'back':
      case 'follow':
        turnAway(
          caller,
          new FdbError(
            'ERR_FDB_NOT_A_DAEMON',
            `process ${process.pid} holds its sockets itself; there is no daemon here to come back to, or to follow a service of`,
          ),
        )
        return
      case 'join':
        this.#receiveJoiner(caller)
        return
    }
  }

  #receiveJoiner(caller: Caller): void {
    const { hosting, hurry, shared } = this.#called
    const { holder, stuckIncumbent: stuck } = hosting()
    const first = this.#waiting[0]
    if (shared.shutdown.closing || (holder === null && first !== undefined)) {
      const why =
        first === undefined ? `process ${process.pid} is closing` : `process ${first.pid} is joining already`
      turnAway(caller, new FdbError('ERR_FDB_BUSY', `${why}: try again`, { retryable: true }))
      return
    }
    if (stuck !== null) {
      const why = `process ${stuck} stands by and does not answer (it is stopped, or stuck): continue it, or end it (fd-broker upgrade --kill-stuck)`
      turnAway(caller, new FdbError('ERR_FDB_BUSY', why, { retryable: true }))
      return
    }
    const refusal = this.#refusal(caller)
    if (refusal !== null) {
      turnAway(caller, refusal)
      return
    }
    welcome(caller.link, {
      version: caller.version,
      pid: process.pid,
      daemon: false,
      generation: shared.generation + 1,
      serviceStartedAt: shared.serviceStartedAt,
      heartbeatMs: shared.settings.times.heartbeat,
    })
    if (holder !== null) {
      this.#admit(caller)
      return
    }
    // Not yet our own master: ask the one that stands by to release as soon as that is safe, or wait until we serve.
    this.#waiting.push(caller)
    caller.link.start({
      message: (_envelope, fds) => closeAll(fds),
      broken: () => this.#drop(caller),
      end: () => this.#drop(caller),
    })
    hurry()
  }

  /** Refuses a client that would end with this process, unless the application has said that this process stays. */
  #refusal({ pid, pidfd }: Caller): FdbError | null {
    const here = pidfd === null || pidOf(pidfd) === pid
    if (!here || !endsWithUs(pid)) return null
    try {
      refuseMainProcess(this.#called.shared, `process ${pid}`)
      return null
    } catch (error) {
      return error as FdbError
    }
  }

  #drop(caller: Caller): void {
    this.#waiting = this.#waiting.filter(other => other !== caller)
    dismiss(caller)
  }

  #admit(caller: Caller): void {
    const holder = this.#called.hosting().holder
    if (!caller.link.open || holder === null) {
      this.#drop(caller)
      return
    }
    const { hello, link, pid, pidfd, proven, identity } = caller
    const generation = this.#called.shared.generation + 1
    holder.admit({
      link,
      pid,
      pidfd,
      proven,
      identity,
      generation,
      capabilities: hello.capabilities ?? [],
    })
  }
}
