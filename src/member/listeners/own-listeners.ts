import { FdbError } from '../../errors.js'
import { type ListenerEntry, listenerEntry } from '../../holder/entry.js'
import type { Registry } from '../../holder/registry.js'
import { inspectOne, type OwnedFd } from '../../kernel/index.js'
import {
  bindListener,
  formatAddress,
  formatListenerSpec,
  type ListenerSpec,
  type OptionChange,
} from '../../listeners/index.js'
import type { WorkerPlace } from '../../os/default-control.js'
import { type PassedListener, passedSockets } from '../../os/service-manager/passed-sockets.js'
import type { Machine } from '../lifecycle/machine.js'
import type { Settings } from '../options/options.js'
import { type Holdings, type OfferedListener, type OfferedListeners, sameAddress } from './holdings.js'
import { Listener, type ListenerAddress, SocketOptions } from './listener.js'
import { bindForWorker, workerSpec } from './worker-orders.js'

const MOST_NAME_CHARACTERS = 256

interface OwnListenersDeps {
  readonly settings: Settings
  readonly machine: Machine
  readonly registry: Registry
  readonly holdings: Holdings
  /** Throws ERR_FDB_CLOSED if this process has left. */
  readonly throwIfLeft: () => void
  readonly changed: (name: string, changes: readonly OptionChange[]) => void
  readonly failed: (error: unknown) => void
}

/** Opens and closes the listeners of this version, by name. */
export class OwnListeners {
  readonly #deps: OwnListenersDeps
  readonly #listeners = new Map<string, Listener>()
  readonly #opening = new Set<string>()
  /** Closed listeners that still have connections. */
  readonly #leaving = new Set<Listener>()
  readonly #offered: OfferedListeners
  readonly #worker: WorkerPlace | null

  constructor(deps: OwnListenersDeps) {
    this.#deps = deps
    this.#offered = deps.holdings.offered
    this.#worker = deps.settings.worker
  }

  get names(): Iterable<string> {
    return this.#listeners.keys()
  }

  get all(): Listener[] {
    return [...this.#listeners.values(), ...this.#leaving]
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
    return this.#offered.find(name, spec)?.entry.fd.dup() ?? null
  }

  async relisten(name: string, spec: ListenerSpec): Promise<Listener> {
    const present = this.#listeners.get(name)
    if (present !== undefined && sameAddress(present.spec, spec)) return present
    const listener = await this.#open(name, spec)
    if (present !== undefined) this.#leave(present)
    return listener
  }

  unlisten(name: string): void {
    const listener = this.#listeners.get(name)
    if (listener === undefined) return
    this.#listeners.delete(name)
    this.#leave(listener)
    this.#deps.holdings.unregister(name)
  }

  #leave(listener: Listener): void {
    listener.leave()
    this.#leaving.add(listener)
    void listener.emptied().then(() => {
      this.#leaving.delete(listener)
      listener.release()
    })
  }

  /** Throws ERR_FDB_LISTENER_TWICE if another call for this name still waits, for example for the daemon. */
  async #open(name: string, spec: ListenerSpec, ownFd?: OwnedFd): Promise<Listener> {
    this.#deps.throwIfLeft()
    checkName(name)
    if (this.#opening.has(name)) throw listenerTwice(name)
    this.#opening.add(name)
    try {
      return await this.#openAlone(name, this.#worker === null ? spec : workerSpec(spec), ownFd)
    } finally {
      this.#opening.delete(name)
    }
  }

  async #openAlone(name: string, spec: ListenerSpec, ownFd?: OwnedFd): Promise<Listener> {
    const { changed, failed, machine, settings } = this.#deps
    const offered = ownFd === undefined ? this.#offered.find(name, spec) : null
    const adopted = offered !== null
    const before = offered?.before ?? null
    const { fd, passed } = adopted
      ? { fd: await this.#adopt(name, spec, offered), passed: false }
      : await this.#bind(name, spec, ownFd)
    this.#offered.use(fd)
    const listener = Listener.of({
      name,
      spec,
      address: addressOf(fd),
      adopted,
      fd,
      options: new SocketOptions({ fd, spec, before, bound: !adopted && !passed }),
      changed: changes => {
        if (!adopted) return
        settings.logger.info(
          { listener: name, changes },
          'options of an adopted listener differed from those of this version',
        )
        changed(name, changes)
      },
      failed: error => {
        settings.logger.error(
          { err: error, listener: name },
          'a server or a hook of this listener failed; the application gets the event listenerError',
        )
        failed(error)
      },
    })
    this.#listeners.set(name, listener)
    // Also after ready(), until the handoff cannot be undone any more: then entries that are not wanted are closed.
    this.#deps.registry.wanted.add(name)
    if (machine.phase === 'serving') listener.setOptions()
    if (machine.member.accepting) await listener.start()
    return listener
  }

  async #adopt(name: string, spec: ListenerSpec, { entry, before }: OfferedListener): Promise<OwnedFd> {
    const { holdings } = this.#deps
    if (entry.name !== name) {
      const fd = entry.fd.share()
      this.#offered.rename(name)
      await holdings.register(listenerEntry(name, spec, fd))
      return fd
    }
    // The Unix path of an entry without a specification belongs to the service manager. With one, the service would remove the path.
    if (before !== null && formatListenerSpec(spec) !== entry.specText)
      this.#deps.registry.put(listenerEntry(name, spec, entry.fd))
    return entry.fd
  }

  async #bind(name: string, spec: ListenerSpec, ownFd?: OwnedFd): Promise<{ fd: OwnedFd; passed: boolean }> {
    const passed = ownFd === undefined ? passedSockets().claim(name, spec) : null
    if (passed !== null) return { fd: await this.#takePassed(name, spec, passed), passed: true }
    const bound =
      ownFd === undefined && this.#worker !== null
        ? await bindForWorker(this.#worker, name, spec)
        : { fd: ownFd ?? this.#bindAlone(spec), spec }
    // This version may still adopt the previous version's listener of this name, by its address and under another name.
    this.#offered.rename(name)
    await this.#deps.holdings.register(listenerEntry(name, bound.spec, bound.fd), true)
    return { fd: bound.fd, passed: false }
  }

  /** Binds the address. If a listener of this service is in the way, names it: joining the service, as the usual error advises, does not help. */
  #bindAlone(spec: ListenerSpec): OwnedFd {
    try {
      return bindListener(spec)
    } catch (error) {
      const inUse = FdbError.is(error) && error.code === 'ERR_FDB_ADDRESS_IN_USE'
      const entry = inUse ? this.#offered.overlapping(spec) : null
      throw entry === null ? error : overlapError(spec, entry, error as FdbError)
    }
  }

  /** Registers a listener that a service manager or another process has passed. A service manager's Unix socket gets no specification, see `#adopt()`. */
  async #takePassed(
    name: string,
    spec: ListenerSpec,
    { fd, elsewhere, adopted }: PassedListener,
  ): Promise<OwnedFd> {
    const { logger } = this.#deps.settings
    const { url } = addressOf(fd)
    const facts = { listener: name, address: url }
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

function overlapError(spec: ListenerSpec, { name, specText }: ListenerEntry, cause: FdbError): FdbError {
  const address = formatListenerSpec(spec)
  return new FdbError(
    'ERR_FDB_ADDRESS_IN_USE',
    `${address} overlaps the listener "${name}" of this service (${specText}), which stays open until no version needs it. Listen at the same address or at another port, or end the service (fd-broker stop) before you start a version with the new address`,
    { cause, details: { ...cause.details, listener: name } },
  )
}

function listenerTwice(name: string): FdbError {
  return new FdbError(
    'ERR_FDB_LISTENER_TWICE',
    `listener "${name}" is already open: use the listener that the first listen() returned`,
  )
}

function addressOf(fd: OwnedFd): ListenerAddress {
  const identity = inspectOne(fd)
  const url = formatAddress(identity)
  if (identity.family === 'unix')
    return { url, path: `${identity.abstract ? '@' : ''}${identity.address ?? ''}` }
  return { url, host: identity.address ?? '', port: identity.port ?? 0 }
}
