import { FdbError } from '../../errors.js'
import { type Entry, type ListenerEntry, listenerEntry, type NamedEntry } from '../../holder/entry.js'
import type { Registry } from '../../holder/registry.js'
import { closeAll, inspectOne, type OwnedFd } from '../../kernel/index.js'
import {
  addressOf,
  bindListener,
  formatAddress,
  formatListenerSpec,
  type ListenerSpec,
  type OptionChange,
} from '../../listeners/index.js'
import type { WorkerPlace } from '../../os/default-control.js'
import { type PassedListener, passedSockets } from '../../os/service-manager/passed-sockets.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Settings } from '../options/options.js'
import { ClosedSockets, type ClosedSocketsDeps } from './closed-sockets.js'
import type { Holdings } from './holdings.js'
import { Listener, SocketOptions } from './listener.js'
import { listenerTwice, openedMeanwhile, withoutServer } from './listener-errors.js'
import { bindForWorker, workerSpec } from './worker-orders.js'

const MOST_NAME_CHARACTERS = 256

interface OwnListenersDeps extends ClosedSocketsDeps {
  readonly settings: Pick<Settings, 'logger' | 'worker'>
  readonly machine: Machine
  readonly registry: Registry
  readonly holdings: Pick<Holdings, 'dropped' | 'register' | 'unregister' | 'want' | 'wantSoon'>
  /** Throws ERR_FDB_CLOSED if this process has left. */
  readonly throwIfLeft: () => void
  readonly events: {
    changed(name: string, changes: readonly OptionChange[]): void
    failed(error: unknown): void
    /** The handoff must be given up. */
    refused(error: FdbError): void
  }
}

/** The listeners that may be without a server: all, none, or those with these names. */
type UnservedOption = boolean | readonly string[]

/**
 * Opens and closes the listeners of this version, by name. Adopts the previous version's listener with the same name and address, else one with the
 * same address and another name, else binds the address. Owns descriptors of previous listeners whose names this version has given to others.
 */
export class OwnListeners {
  readonly #deps: OwnListenersDeps
  readonly #listeners = new Map<string, Listener>()
  readonly #opening = new Set<string>()
  /** Closed listeners that still have connections. */
  readonly #leaving = new Set<Listener>()
  readonly #renamed: ListenerEntry[] = []
  /** The inodes of the sockets that this version already uses. */
  readonly #used = new Set<string>()
  /** The inodes of the sockets that this version has bound. */
  readonly #bound = new Set<string>()
  /** The names that this version has given to descriptors, or by which it has got descriptors of the previous version. */
  readonly #named = new Set<string>()
  /** The listeners that the incumbent opened after the Offer. `elsewhere`: this version uses the name for another address. */
  readonly #late = new Map<string, { readonly address: string; readonly elsewhere: boolean }>()
  #unserved: UnservedOption = false
  #accepted = false
  #settled = false
  readonly #closed: ClosedSockets
  readonly #worker: WorkerPlace | null

  constructor(deps: OwnListenersDeps) {
    this.#deps = deps
    this.#closed = new ClosedSockets(deps)
    this.#worker = deps.settings.worker
  }

  get names(): Iterable<string> {
    return this.#listeners.keys()
  }

  get all(): Listener[] {
    return [...this.#listeners.values(), ...this.#leaving]
  }

  /** The listeners of the previous version that this version does not use (yet), also those that were opened after the Offer. */
  get unused(): readonly ListenerEntry[] {
    return this.#deps.registry.listeners.filter(entry => !this.#used.has(inodeOf(entry)))
  }

  /**
   * The names for Ready. `adopted`: of the descriptors that this version uses. `refused`: of the previous version's listeners that this version uses under
   * no name; it may have a listener of such a name at another address.
   */
  get choice(): { adopted: string[]; refused: string[] } {
    const { listeners, wanted } = this.#deps.registry
    const used = new Set(listeners.filter(({ name }) => wanted.has(name)).map(inodeOf))
    const unused = [...listeners, ...this.#renamed].filter(entry => !used.has(inodeOf(entry)))
    return { adopted: [...wanted], refused: unused.map(({ name }) => name) }
  }

  /** Starts all listeners, even if one fails; then rejects with the first error. */
  async start(): Promise<void> {
    this.#accepted = true
    const results = await Promise.allSettled(this.all.map(listener => listener.start()))
    for (const result of results) if (result.status === 'rejected') throw result.reason
  }

  /** Stops accepting. Closes no socket and no connection. */
  stop(): void {
    for (const listener of this.all) listener.stop()
  }

  /** Sets this version's socket options. Not before the Commit, because the incumbent uses the same sockets. */
  setOptions(): void {
    for (const listener of this.all) listener.setOptions()
  }

  /** Remembers the socket options for a rollback. Called early: a successor may set its own without another message to this process. */
  keepOptions(): void {
    if (this.#deps.machine.phase !== 'standby') for (const listener of this.all) listener.keepOptions()
  }

  /** Ends the observation of the application's servers. */
  release(): void {
    for (const listener of this.all) listener.release()
  }

  /**
   * Throws ERR_FDB_SERVER_LISTENS if the application has called a server's listen(), and ERR_FDB_UNSERVED if a listener of this version, or of the
   * incumbent, would have no server, unless `allowed` has it.
   */
  checkServed(allowed: UnservedOption): void {
    for (const listener of this.all) listener.check()
    this.#unserved = allowed
    this.#checkServed()
  }

  #checkServed(): void {
    const allowed = (name: string) =>
      typeof this.#unserved === 'boolean' ? this.#unserved : this.#unserved.includes(name)
    for (const [name, { address, elsewhere }] of this.#late) {
      const adopted = this.all.some(listener => listener.name === name && listener.adopted)
      if ((elsewhere || !adopted) && !allowed(name)) throw openedMeanwhile(name, address)
    }
    for (const listener of this.all)
      if (!listener.hasServer && !allowed(listener.name)) throw withoutServer(listener)
  }

  /**
   * Adds an entry that the incumbent registered after the Offer. Gives up the handoff if this version is ready and would not serve the
   * listener. Owns the descriptor.
   */
  takeLate(entry: Entry): void {
    const { machine, registry } = this.#deps
    if (entry.role === 'named') {
      this.takeNamed(entry)
      return
    }
    const { name, specText, fd } = entry
    const present = this.all.some(listener => listener.name === name) ? registry.get(name)?.fd : undefined
    if (present === undefined) registry.put(entry)
    else {
      const same = inspectOne(present).ino === inspectOne(fd).ino
      // Keep the present descriptor, because the listener borrows it.
      fd.close()
      if (same) return
    }
    this.#late.set(name, { address: specText, elsewhere: present !== undefined })
    if (machine.phase !== 'ready') return
    try {
      this.#checkServed()
    } catch (error) {
      this.#deps.events.refused(FdbError.from(error))
    }
  }

  /** Adds a descriptor that another version has named, unless the name is that of an open listener. Owns it. */
  takeNamed(entry: NamedEntry): void {
    const { registry } = this.#deps
    if (this.all.some(listener => listener.name === entry.name)) {
      entry.fd.close()
      return
    }
    registry.put(entry)
    registry.wanted.add(entry.name)
  }

  /**
   * The listeners are about to be closed. If the service ends, a worker that is not replaced, or the only version of a daemon that is dead, first
   * accepts the connections that wait. A listener that the next version has given up accepts until no other process has it, and so does one that only
   * this version has, if the previous version serves again.
   */
  close(): void {
    const undone = this.#mayBeUndone && this.#accepted
    this.forgetPrevious()
    const { hosting, machine, registry, shutdown } = this.#deps
    const others = shutdown.isRetired || shutdown.yields || hosting.standsBy || hosting.isHandingOver
    // A daemon that lives keeps the listeners for the next process.
    const last = machine.member.link === 'local' || this.#worker !== null || this.#isLastOfDaemon
    const accepts = !others && last && machine.phase === 'leaving'
    for (const [name, listener] of this.#listeners) {
      const entry = registry.get(name)
      if (accepts && entry !== undefined) listener.acceptWaiting(entry.fd)
      listener.closeOthers()
      if (accepts || entry === undefined) continue
      const isLast = hosting.givenUp.has(name) || (undone && this.#bound.has(inodeOf(entry)))
      if (isLast) this.#leaveLast(listener, entry.fd.share())
    }
  }

  /** The daemon is dead. A next version may have the listeners too, but only this process has accepted. */
  get #isLastOfDaemon(): boolean {
    const { hosting, machine } = this.#deps
    const { link, scope } = machine.member
    return this.#accepted && scope === 'member' && link !== 'up' && hosting.isHeard
  }

  /** Clients have come to the queue of a listener that the version which now serves does not use. Owns the descriptor. */
  #leaveLast(listener: Listener, fd: OwnedFd): void {
    listener.acceptUntilLeft(fd)
    listener.leaveAfter(this.#deps.hosting.givenUpClosed(), fd, () => {
      listener.leave(fd)
      fd.close()
    })
  }

  /** The previous version may serve again, and does not have the listeners that this one has bound. */
  get #mayBeUndone(): boolean {
    return !this.#settled && this.#deps.machine.member.source !== 0
  }

  /** Nothing of the previous version can be adopted any more. */
  forgetPrevious(): void {
    this.#settled = true
    closeAll(this.#renamed.splice(0).map(({ fd }) => fd))
  }

  /**
   * Stores a descriptor under this name by `store`. Throws ERR_FDB_LISTENER_TWICE if it would take the place of a listener, which the next
   * version would then not get.
   */
  async name(name: string, store: () => Promise<void>): Promise<void> {
    if (this.#listeners.has(name) || this.#opening.has(name))
      throw new FdbError(
        'ERR_FDB_LISTENER_TWICE',
        `"${name}" is the name of an open listener: give the descriptor another name`,
      )
    const known = this.#named.has(name)
    this.#named.add(name)
    try {
      await store()
    } catch (error) {
      if (!known) this.#named.delete(name)
      throw error
    }
  }

  /** This version uses the descriptor of this name: no listener may take its place. */
  useNamed(name: string): void {
    this.#named.add(name)
  }

  /** See `Member.mayReopen`. */
  get mayReopen(): boolean {
    return this.#closed.any
  }

  /** See `Member.listen`; `ownFd`: see `Member.listenOn`. */
  async listen(name: string, spec: ListenerSpec, ownFd?: OwnedFd): Promise<Listener> {
    if (this.#listeners.has(name)) throw listenerTwice(name)
    return this.#open(name, spec, ownFd)
  }

  offered(name: string, spec: ListenerSpec): OwnedFd | null {
    const present = this.#listeners.get(name)
    if (present?.adopted && sameAddress(present.spec, spec))
      return this.#deps.registry.get(name)?.fd.dup() ?? null
    return this.#find(name, spec)?.fd.dup() ?? this.#closed.dup(spec)
  }

  async relisten(name: string, spec: ListenerSpec): Promise<Listener> {
    const present = this.#listeners.get(name)
    if (present !== undefined && sameAddress(present.spec, spec)) {
      this.#respecify(present, this.#worker === null ? spec : workerSpec(spec))
      return present
    }
    const fd = this.#deps.registry.get(name)?.fd.share()
    try {
      const listener = await this.#open(name, spec)
      if (present !== undefined && fd !== undefined) this.#keepSocket(present, fd)
      // A daemon has closed its dup.
      if (present !== undefined) this.#leave(present, fd?.share(), [])
      return listener
    } finally {
      fd?.close()
    }
  }

  unlisten(name: string): void {
    const listener = this.#listeners.get(name)
    if (listener === undefined) return
    this.#listeners.delete(name)
    const fd = this.#deps.registry.get(name)?.fd.share()
    if (fd !== undefined) this.#keepSocket(listener, fd)
    this.#leave(listener, fd, [name])
  }

  /** A worker's listeners are bound by the main process. */
  #keepSocket({ spec }: Listener, fd: OwnedFd): void {
    // No other process has a socket that this version has bound, and not offered.
    const { phase } = this.#deps.machine
    const own = (phase === 'joining' || phase === 'ready') && this.#bound.has(inspectOne(fd).ino)
    if (this.#worker === null && !own) this.#closed.keep(spec, fd)
  }

  /**
   * A worker accepts on a listener that no other process has: keeps it as a further socket of `listener`, which the next version gets too.
   * Rejects as `Holdings.register()`; then nothing has changed.
   */
  async keepStandIn(listener: Listener, key: string): Promise<void> {
    const fd = listener.standIns.get(key)?.dup()
    if (fd === undefined) return
    const entry = `${listener.name.slice(0, MOST_NAME_CHARACTERS / 2)}#${inspectOne(fd).ino}`
    await this.#deps.holdings.register(listenerEntry(entry, listener.spec, fd))
    this.#used.add(inspectOne(fd).ino)
    if (this.#listeners.get(listener.name) === listener) listener.makeFurther(key, entry)
    else this.#deps.holdings.unregister(entry)
  }

  /** Takes over the further sockets at the listener's address, which a worker has kept. Does not wait: a failure would leave a half opened listener. */
  #takeFurther(listener: Listener): void {
    const { holdings, registry } = this.#deps
    for (const entry of registry.listeners) {
      if (entry.spec?.kind !== 'tcp' || !sameAddress(entry.spec, listener.spec)) continue
      if (this.#used.has(inodeOf(entry))) continue
      this.#used.add(inodeOf(entry))
      listener.addFurther(entry.name, entry.fd.dup())
      holdings.wantSoon(entry.name)
    }
  }

  /**
   * Closes `fd`, the listener's socket, and drops these entries. Until no other process has the listener, a daemon or a standby, to whose queues clients
   * come too, the listener accepts, unless the application has closed its servers; the clients that then wait are accepted even if this process has begun
   * to leave.
   */
  #leave(listener: Listener, fd: OwnedFd | undefined, names: readonly string[]): void {
    const { holdings, machine } = this.#deps
    const dropped = [...names, ...listener.further]
    for (const name of dropped) holdings.unregister(name)
    this.#leaving.add(listener)
    const { accepting } = machine.member
    const leave = () => {
      // A socket that is kept would let further clients wait.
      this.#closed.closeUnshared()
      listener.leave(accepting ? (fd ?? null) : null)
      fd?.close()
      void listener.emptied().then(() => {
        this.#leaving.delete(listener)
        listener.release()
      })
    }
    const closed = accepting ? holdings.dropped(dropped.length > 0) : undefined
    if (closed === undefined || listener.hasClosedServers) leave()
    else listener.leaveAfter(closed, fd, leave)
  }

  /** Throws ERR_FDB_LISTENER_TWICE if another call for this name still waits, for example for the daemon, or if this version has a descriptor of this name. */
  async #open(name: string, spec: ListenerSpec, ownFd?: OwnedFd): Promise<Listener> {
    this.#deps.throwIfLeft()
    checkName(name)
    if (this.#opening.has(name)) throw listenerTwice(name)
    if (this.#named.has(name))
      throw new FdbError(
        'ERR_FDB_LISTENER_TWICE',
        `"${name}" is the name of a descriptor that the service holds: give the listener another name`,
      )
    this.#opening.add(name)
    try {
      return await this.#openAlone(name, this.#worker === null ? spec : workerSpec(spec), ownFd)
    } finally {
      this.#opening.delete(name)
    }
  }

  #respecify(present: Listener, spec: ListenerSpec): void {
    if (formatListenerSpec(present.spec) === formatListenerSpec(spec)) return
    present.respecify(spec)
    if (this.#deps.machine.phase === 'serving') present.setOptions()
  }

  async #openAlone(name: string, spec: ListenerSpec, ownFd?: OwnedFd): Promise<Listener> {
    const { events, machine, registry, settings } = this.#deps
    const offered = ownFd === undefined ? this.#find(name, spec) : null
    const adopted = offered !== null
    const before = offered?.spec ?? null
    const { fd, present } = adopted
      ? { fd: await this.#adopt(name, spec, offered), present: true }
      : await this.#bind(name, spec, ownFd)
    this.#used.add(inspectOne(fd).ino)
    const listener = Listener.of({
      name,
      spec,
      adopted,
      fd,
      options: new SocketOptions({ fd, spec, before, bound: !present }),
      events: {
        changed: changes => {
          // The first options of a socket that a service manager has bound are no change.
          if (!adopted && listener.spec === spec) return
          settings.logger.info({ listener: name, changes }, 'options of a listener were changed')
          events.changed(name, changes)
        },
        failed: error => {
          settings.logger.error(
            { err: error, listener: name },
            'a server or a hook of this listener failed; the application gets the event listenerError',
          )
          events.failed(error)
        },
      },
    })
    this.#listeners.set(name, listener)
    // Also after ready(), until the handoff cannot be undone any more: then entries that are not wanted are closed.
    registry.wanted.add(name)
    if (this.#worker !== null) this.#takeFurther(listener)
    if (machine.phase === 'serving') listener.setOptions()
    if (machine.member.accepting) await listener.start()
    return listener
  }

  /** Returns null if no listener fits, so that the address must be bound. */
  #find(name: string, spec: ListenerSpec): ListenerEntry | null {
    const { registry } = this.#deps
    const present = registry.get(name)
    if (present?.role === 'listener' && isThere(present, spec) && !this.#used.has(inodeOf(present)))
      return present
    // With port 0 the kernel chooses the port, so no other listener has this address.
    if (spec.kind !== 'unix' && spec.port === 0) return null
    const fits = (other: ListenerEntry) =>
      other.spec !== null && sameAddress(other.spec, spec) && !this.#used.has(inodeOf(other))
    return [...registry.listeners, ...this.#renamed].find(fits) ?? null
  }

  /** Returns the service's listener that keeps this address from being bound: one of them is a wildcard (0.0.0.0, [::]) with the port of the other. */
  #overlapping(spec: ListenerSpec): ListenerEntry | null {
    if (spec.kind === 'unix') return null
    const overlaps = (other: ListenerSpec) =>
      other.kind === spec.kind &&
      other.port === spec.port &&
      (other.host === spec.host || WILDCARDS.has(other.host) || WILDCARDS.has(spec.host))
    return this.#deps.registry.listeners.find(entry => entry.spec !== null && overlaps(entry.spec)) ?? null
  }

  /** Lets `#find` still return the previous version's listener `name`, because the caller gives the name to another listener. */
  #rename(name: string): void {
    const { machine, registry } = this.#deps
    const entry = registry.get(name)
    if (entry?.role !== 'listener' || machine.phase !== 'joining') return
    if (!this.#used.has(inodeOf(entry))) this.#renamed.push({ ...entry, fd: entry.fd.share() })
  }

  async #adopt(name: string, spec: ListenerSpec, entry: ListenerEntry): Promise<OwnedFd> {
    const { holdings } = this.#deps
    if (entry.name !== name) {
      const fd = entry.fd.share()
      this.#rename(name)
      await holdings.register(listenerEntry(name, spec, fd))
      return fd
    }
    // The Unix path of an entry without a specification belongs to the service manager. With one, the service would remove the path.
    if (entry.spec !== null && formatListenerSpec(spec) !== entry.specText)
      this.#deps.registry.put(listenerEntry(name, spec, entry.fd))
    // No other call may find the socket meanwhile.
    this.#used.add(inodeOf(entry))
    try {
      await holdings.want(name)
    } catch (error) {
      this.#used.delete(inodeOf(entry))
      throw error
    }
    return entry.fd
  }

  /** `present`: the socket existed, perhaps with other options. */
  async #bind(name: string, spec: ListenerSpec, ownFd?: OwnedFd): Promise<{ fd: OwnedFd; present: boolean }> {
    const passed = ownFd === undefined ? passedSockets().claim(name, spec) : null
    if (passed !== null) return { fd: await this.#takePassed(name, spec, passed), present: true }
    const former = ownFd === undefined ? this.#closed.take(spec) : null
    if (former !== null) {
      for (const listener of this.#leaving) if (sameAddress(listener.spec, spec)) listener.leaveNow()
      await this.#deps.holdings.register(listenerEntry(name, spec, former))
      return { fd: former, present: true }
    }
    const bound =
      ownFd === undefined && this.#worker !== null
        ? await bindForWorker(this.#worker, name, spec)
        : { fd: ownFd ?? this.#bindAlone(spec), spec }
    this.#bound.add(inspectOne(bound.fd).ino)
    // This version may still adopt the previous version's listener of this name, by its address and under another name.
    this.#rename(name)
    await this.#deps.holdings.register(listenerEntry(name, bound.spec, bound.fd), true)
    return { fd: bound.fd, present: false }
  }

  /** Binds the address. If a listener of this service is in the way, names it: joining the service, as the usual error advises, does not help. */
  #bindAlone(spec: ListenerSpec): OwnedFd {
    try {
      return bindListener(spec)
    } catch (error) {
      const inUse = FdbError.is(error) && error.code === 'ERR_FDB_ADDRESS_IN_USE'
      if (inUse && this.#endLateAnswers(spec)) return this.#bindAlone(spec)
      const entry = inUse ? this.#overlapping(spec) : null
      throw entry === null ? error : overlapError(spec, entry, error as FdbError)
    }
  }

  /** Closes the sockets of closed UDP listeners at this address, which wait for late answers. Returns whether there were any. */
  #endLateAnswers(spec: ListenerSpec): boolean {
    const isThere = ({ address, spec: { kind, ...old } }: Listener) =>
      kind === 'udp' && sameAddress({ ...old, kind, port: address.port ?? 0 }, spec)
    const waiting = [...this.#leaving].filter(isThere)
    for (const listener of waiting) {
      this.#leaving.delete(listener)
      listener.release()
    }
    return waiting.length > 0
  }

  /** Registers a listener that a service manager or another process has passed. A service manager's Unix socket gets no specification, see `#adopt()`. */
  async #takePassed(
    name: string,
    spec: ListenerSpec,
    { fd, elsewhere, adopted }: PassedListener,
  ): Promise<OwnedFd> {
    const { logger } = this.#deps.settings
    const facts = { listener: name, address: formatAddress(inspectOne(fd)) }
    if (elsewhere)
      logger.warn(
        facts,
        'the service manager has bound this listener to another address than listen() asked for: the address of the service manager is used',
      )
    else if (adopted) logger.info(facts, 'this listener was copied from another process, which has it too')
    else logger.info(facts, 'the service manager has bound this listener')
    const known = spec.kind === 'unix' && !adopted ? null : spec
    await this.#deps.holdings.register(listenerEntry(name, known, fd))
    return fd
  }
}

/** Throws ERR_FDB_OPTION for a long name, because a message with 253 descriptors must have room for their names. */
export function checkName(name: string): void {
  if (typeof name === 'string' && name !== '' && name.length <= MOST_NAME_CHARACTERS) return
  const got = typeof name === 'string' ? `has ${name.length} characters` : `is ${String(name)}`
  throw new FdbError(
    'ERR_FDB_OPTION',
    `the name of a listener or descriptor ${got}: give a string of 1 to ${MOST_NAME_CHARACTERS} characters`,
  )
}

function overlapError(
  spec: ListenerSpec,
  { name, spec: other, specText }: ListenerEntry,
  cause: FdbError,
): FdbError {
  const address = formatListenerSpec(spec)
  const message =
    other !== null && sameAddress(other, spec)
      ? `${address} is the address of the listener "${name}" of this service, which keeps that name until a next version listens there under another one (fd-broker upgrade)`
      : `${address} overlaps the listener "${name}" of this service (${specText}), which stays open until no version needs it. Listen at the same address or at another port, or end the service (fd-broker stop) before you start a version with the new address`
  return new FdbError('ERR_FDB_ADDRESS_IN_USE', message, {
    cause,
    details: { ...cause.details, listener: name },
  })
}

const WILDCARDS: ReadonlySet<string> = new Set(['0.0.0.0', '::'])

function inodeOf({ fd }: Entry): string {
  return inspectOne(fd).ino
}

/** Whether this version, which asks for `spec`, may adopt the entry of the same name. An entry without a specification may be a service manager's. */
function isThere({ fd, spec: before }: ListenerEntry, spec: ListenerSpec): boolean {
  return before === null ? isBoundAt(fd, spec) : sameAddress(before, spec)
}

function sameAddress(a: ListenerSpec, b: ListenerSpec): boolean {
  return addressOf(a) === addressOf(b)
}

/** Whether a socket without a known specification may be bound at this address. Compares Unix paths only; any other socket passes. */
function isBoundAt(fd: OwnedFd, { kind, path, abstract }: ListenerSpec): boolean {
  const { family, address, abstract: hidden = false } = inspectOne(fd)
  return family !== 'unix' || kind !== 'unix' || (address === path && hidden === abstract)
}
