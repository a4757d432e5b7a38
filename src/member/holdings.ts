import { FdbError } from '../errors.js'
import { accepts } from '../handoff/phases.js'
import type { Entry } from '../holder/registry.js'
import { closeAll, inspectOne, type OwnedFd } from '../kernel/index.js'
import { addressOf, type ListenerSpec, parseListenerSpec } from '../listeners/index.js'
import { removeUnixPath } from '../listeners/unix-path.js'
import { fencedFrom } from './cannot-serve.js'
import type { Hosting } from './hosting.js'
import type { Listener } from './listener.js'
import type { MemberContext } from './member-context.js'

/** The entries of this process's registry: adds and removes them. */
export class Holdings {
  readonly #shared: MemberContext
  readonly #hosting: () => Hosting
  /** Listeners that this version has bound and that are not the service's for good yet; null: all that it binds is. */
  #made: Set<Entry> | null = new Set()

  readonly #refuse: (error: FdbError) => void
  readonly #unserved = new Unserved()
  /** Listeners of the version before. */
  readonly offered: OfferedListeners

  /** `refuse`: this version cannot take over. */
  constructor(shared: MemberContext, hosting: () => Hosting, refuse: (error: FdbError) => void) {
    this.#shared = shared
    this.#hosting = hosting
    this.#refuse = refuse
    this.offered = new OfferedListeners(shared)
  }

  /**
   * Takes a listener or descriptor into the registry, in place of the one of that name, and has a daemon keep it. When that fails nothing
   * has changed, and the descriptor is closed. `made`: bound by this version; its path goes if this version does not come to serve for good.
   */
  async register(entry: Entry, made = false): Promise<void> {
    const hosting = this.#hosting()
    const { machine, registry, wanted } = this.#shared
    if (made) this.#made?.add(entry)
    try {
      if (machine.phase === 'frozen' || machine.phase === 'standby') await this.#decided(entry)
      const kept = hosting.keep(entry, made && this.#made !== null)
      if (kept !== undefined) await kept
    } catch (error) {
      this.#made?.delete(entry)
      throw error
    }
    hosting.giveUp?.(entry.name)
    registry.put(entry)
    wanted.add(entry.name)
    hosting.settleFormer?.()
  }

  /** Throws ERR_FDB_UNSERVED where clients would not be accepted any more; `meant`: by these listeners that is meant. */
  checkServed(meant: UnservedOption): void {
    this.#unserved.allow(meant)
    this.#unserved.check(this.#shared.listeners)
  }

  /** The service has taken it in since the Offer: this version keeps it, or is refused where it would not serve it. Takes the descriptor. */
  takeLate(entry: Entry): void {
    const { listeners, machine, registry, wanted } = this.#shared
    const { name, role, fd } = entry
    if (role === 'named') {
      registry.put(entry)
      wanted.add(name)
      return
    }
    const present = listeners.some(listener => listener.name === name) ? registry.get(name)?.fd : undefined
    if (present === undefined) registry.put(entry)
    else {
      const same = inspectOne(present).ino === inspectOne(fd).ino
      // The listener borrows the one that there is.
      fd.close()
      if (same) return
    }
    this.#unserved.comes(entry, present !== undefined)
    if (machine.phase !== 'ready') return
    try {
      this.#unserved.check(listeners)
    } catch (error) {
      this.#refuse(FdbError.from(error))
    }
  }

  /** The handoff that commits comes to its end first. Closes what cannot be taken in, and throws ERR_FDB_FENCED where another process serves. */
  async #decided({ name, fd, spec }: Entry): Promise<void> {
    const { changes, shutdown, machine, settings } = this.#shared
    const { freeze, prepare, commit } = settings.times
    await changes.until(() => shutdown.over || machine.phase !== 'frozen', freeze + prepare + commit)
    if (!shutdown.over && accepts(machine.phase)) return
    removeUnixPath(fd, spec)
    fd.close()
    throw fencedFrom(name)
  }

  /** Asks for it no more; daemon hosting: the daemon lets go of it too. */
  unregister(name: string): void {
    const hosting = this.#hosting()
    this.#shared.wanted.delete(name)
    this.#drop(name)
    hosting.settleFormer?.()
    hosting.drop?.(name)
  }

  /** The handoff cannot be undone any more: listeners that this version did not ask for are closed here, as no other version needs them. */
  settle(): void {
    const { registry, wanted } = this.#shared
    this.#made = null
    this.offered.close()
    for (const name of registry.names) if (!wanted.has(name)) this.#drop(name)
    this.#hosting().settleFormer?.()
  }

  /** All is closed. This process leaves, and the paths that it has made with it, unless they are the service's. */
  close(): void {
    const { registry } = this.#shared
    for (const { name, fd, spec } of this.#made ?? [])
      if (registry.get(name)?.fd === fd) removeUnixPath(fd, spec)
    this.#made = null
    this.offered.close()
    registry.close()
  }

  #drop(name: string): void {
    this.#hosting().giveUp?.(name)
    this.#shared.registry.drop(name)
  }
}

/** `true`: all of them; or those of these names. */
type UnservedOption = boolean | readonly string[]

/** Finds listeners on which clients are accepted now and would not be by this version: without a server, or opened since the Offer. */
class Unserved {
  /** Opened by the incumbent since the Offer; `elsewhere`: this version has one of that name at another address already. */
  readonly #late = new Map<string, { readonly spec: string; readonly elsewhere: boolean }>()
  /** The application means it. */
  #meant: UnservedOption = false

  /** A listener has come behind the Offer. */
  comes({ name, spec }: Entry, elsewhere: boolean): void {
    this.#late.set(name, { spec, elsewhere })
  }

  /** `ready()` was told of these. */
  allow(meant: UnservedOption): void {
    this.#meant = meant
  }

  /** Throws ERR_FDB_UNSERVED. */
  check(listeners: readonly Listener[]): void {
    for (const [name, { spec, elsewhere }] of this.#late) {
      const taken = listeners.some(listener => listener.name === name && listener.adopted)
      if ((elsewhere || !taken) && !this.#isMeant(name)) throw openedMeanwhile(name, spec)
    }
    for (const listener of listeners)
      if (listener.adopted && !listener.hasServer && !this.#isMeant(listener.name))
        throw withoutServer(listener)
  }

  #isMeant(name: string): boolean {
    return typeof this.#meant === 'boolean' ? this.#meant : this.#meant.includes(name)
  }
}

function withoutServer({ name, address }: Listener): FdbError {
  return new FdbError(
    'ERR_FDB_UNSERVED',
    `listener "${name}" (${address.url}) was taken over and has no server: its clients would wait and never be accepted. Call serve() before ready(), or ready({ unserved: ['${name}'] }) where that is meant`,
    { details: { listener: name } },
  )
}

function openedMeanwhile(name: string, spec: string): FdbError {
  return new FdbError(
    'ERR_FDB_UNSERVED',
    `the incumbent has opened listener "${name}" (${spec}) while this version started, which does not listen there: its clients would be refused. Start the upgrade again, so that this version finds it; or call ready({ unserved: ['${name}'] }) where that is meant`,
    { retryable: true, details: { listener: name } },
  )
}

/** A listener of the version before, for one that this version asks for. */
export interface OfferedListener {
  readonly entry: Entry
  /** Its spec; null: not known, as a service manager has bound it, or another release does not say. */
  readonly before: ListenerSpec | null
}

/**
 * The listeners that this version may adopt: that of the same name at the same address, else the one at that address under a name that this version
 * does not use for it. Owns those whose names this version has given to others.
 */
export class OfferedListeners {
  readonly #shared: MemberContext
  readonly #renamed: Entry[] = []
  /** Inodes of the sockets that this version uses. */
  readonly #used = new Set<string>()

  constructor(shared: MemberContext) {
    this.#shared = shared
  }

  /** Null: the address must be bound. */
  find(name: string, spec: ListenerSpec): OfferedListener | null {
    const { registry } = this.#shared
    const present = registry.get(name)
    if (present?.role === 'listener') {
      const offered = withSpec(present)
      if (isThere(offered, spec) && !this.#used.has(inodeOf(present))) return offered
    }
    // A port of the kernel's choice is no address that could be found again.
    if (spec.kind !== 'unix' && spec.port === 0) return null
    const address = addressOf(spec)
    const entry = [...registry.entries, ...this.#renamed].find(
      other => other.role === 'listener' && isAt(other, address) && !this.#used.has(inodeOf(other)),
    )
    return entry === undefined ? null : withSpec(entry)
  }

  /** This version uses the socket: it is not found any more. */
  use(fd: OwnedFd): void {
    this.#used.add(inspectOne(fd).ino)
  }

  /** This version gives the name to another listener; the one that has it stays at hand under no name, until the handoff cannot be undone. */
  rename(name: string): void {
    const { machine, registry } = this.#shared
    const entry = registry.get(name)
    if (entry?.role !== 'listener' || machine.phase !== 'joining') return
    if (!this.#used.has(inodeOf(entry))) this.#renamed.push({ ...entry, fd: entry.fd.share() })
  }

  close(): void {
    closeAll(this.#renamed.splice(0).map(({ fd }) => fd))
  }
}

function inodeOf({ fd }: Entry): string {
  return inspectOne(fd).ino
}

/** Compared as text: there may be thousands. */
function isAt({ spec }: Entry, address: string): boolean {
  return spec.startsWith(address) && (spec.length === address.length || spec[address.length] === '?')
}

function withSpec(entry: Entry): OfferedListener {
  return { entry, before: entry.spec === '' ? null : parseListenerSpec(entry.spec) }
}

function isThere({ entry, before }: OfferedListener, spec: ListenerSpec): boolean {
  return before === null ? isHere(entry.fd, spec) : sameAddress(before, spec)
}

export function sameAddress(a: ListenerSpec, b: ListenerSpec): boolean {
  return (
    a.kind === b.kind &&
    a.host === b.host &&
    a.port === b.port &&
    a.path === b.path &&
    a.abstract === b.abstract
  )
}

/** Only of those that a service manager has bound, or another release has not described, is the address not known. */
function isHere(fd: OwnedFd, { kind, path, abstract }: ListenerSpec): boolean {
  const { family, address, abstract: hidden = false } = inspectOne(fd)
  return family !== 'unix' || kind !== 'unix' || (address === path && hidden === abstract)
}
