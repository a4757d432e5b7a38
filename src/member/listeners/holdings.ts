import { FdbError } from '../../errors.js'
import { accepts } from '../../handoff/phases.js'
import type { Entry, ListenerEntry, NamedEntry } from '../../holder/entry.js'
import type { Registry } from '../../holder/registry.js'
import { closeAll, inspectOne, type OwnedFd } from '../../kernel/index.js'
import { addressOf, type ListenerSpec } from '../../listeners/index.js'
import { removeUnixPath } from '../../listeners/unix-path.js'
import type { ChangeNotifier } from '../../wire/pending.js'
import { entryFencedError } from '../lifecycle/cannot-serve.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { Settings } from '../options/options.js'
import type { Listener } from './listener.js'

interface HoldingsDeps {
  readonly settings: Settings
  readonly machine: Machine
  readonly shutdown: Shutdown
  readonly changes: ChangeNotifier
  readonly registry: Registry
  readonly listeners: () => readonly Listener[]
  readonly hosting: Hosting
  /** Gives up the handoff. */
  readonly refuse: (error: FdbError) => void
}

/** Adds listeners and other descriptors to this process's registry, and removes them. */
export class Holdings {
  readonly #deps: HoldingsDeps
  /** The listeners that this version has bound itself. Null as soon as the handoff cannot be undone. */
  #bound: Set<Entry> | null = new Set()
  /** The listeners that the incumbent opened after the Offer. `elsewhere`: this version uses the name for another address. */
  readonly #late = new Map<string, { readonly address: string; readonly elsewhere: boolean }>()
  #unserved: UnservedOption = false
  readonly offered: OfferedListeners

  constructor(deps: HoldingsDeps) {
    this.#deps = deps
    this.offered = new OfferedListeners(deps)
  }

  /**
   * Adds a listener or descriptor to the registry, in daemon hosting also to the daemon's. Replaces an earlier entry of that name. If it
   * rejects, nothing has changed and the descriptor is closed. `bound`: this version has bound the listener, so that its Unix path must be
   * removed if the handoff is undone.
   */
  async register(entry: Entry, bound = false): Promise<void> {
    const { hosting, machine, registry } = this.#deps
    if (bound) this.#bound?.add(entry)
    try {
      if (machine.phase === 'frozen' || machine.phase === 'standby') await this.#untilDecided(entry)
      const stored = hosting.store(entry, bound && this.#bound !== null)
      if (stored !== undefined) await stored
    } catch (error) {
      this.#bound?.delete(entry)
      throw error
    }
    hosting.beforeDrop?.(entry.name)
    registry.put(entry)
    registry.wanted.add(entry.name)
    hosting.removeFormerPaths?.()
  }

  /** Throws ERR_FDB_UNSERVED if a listener of this version, or of the incumbent, would have no server, unless `allowed` has it. */
  checkServed(allowed: UnservedOption): void {
    this.#unserved = allowed
    this.#checkServed()
  }

  #checkServed(): void {
    const listeners = this.#deps.listeners()
    const allowed = (name: string) =>
      typeof this.#unserved === 'boolean' ? this.#unserved : this.#unserved.includes(name)
    for (const [name, { address, elsewhere }] of this.#late) {
      const adopted = listeners.some(listener => listener.name === name && listener.adopted)
      if ((elsewhere || !adopted) && !allowed(name)) throw openedMeanwhile(name, address)
    }
    for (const listener of listeners)
      if (!listener.hasServer && !allowed(listener.name)) throw withoutServer(listener)
  }

  /**
   * Adds an entry that the incumbent registered after the Offer. Gives up the handoff if this version is ready and would not serve the
   * listener. Owns the descriptor.
   */
  takeLate(entry: Entry): void {
    const { machine, registry } = this.#deps
    const listeners = this.#deps.listeners()
    if (entry.role === 'named') {
      this.takeNamed(entry)
      return
    }
    const { name, specText, fd } = entry
    const present = listeners.some(listener => listener.name === name) ? registry.get(name)?.fd : undefined
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
      this.#deps.refuse(FdbError.from(error))
    }
  }

  /** Adds a descriptor that another version has named, unless the name is that of an open listener. Owns it. */
  takeNamed(entry: NamedEntry): void {
    const { registry } = this.#deps
    const listeners = this.#deps.listeners()
    if (listeners.some(listener => listener.name === entry.name)) {
      entry.fd.close()
      return
    }
    registry.put(entry)
    registry.wanted.add(entry.name)
  }

  /** Waits until the handoff under way ends. If another process serves then, closes the descriptor and throws ERR_FDB_FENCED. */
  async #untilDecided(entry: Entry): Promise<void> {
    const { changes, machine, settings, shutdown } = this.#deps
    const { freeze, prepare, commit } = settings.times
    await changes.until(() => shutdown.over || machine.phase !== 'frozen', freeze + prepare + commit)
    if (!shutdown.over && accepts(machine.phase)) return
    removePathOf(entry)
    entry.fd.close()
    throw entryFencedError(entry.name)
  }

  /** Removes an entry, from the daemon's registry too. */
  unregister(name: string): void {
    const { hosting } = this.#deps
    this.#drop(name)
    hosting.removeFormerPaths?.()
    hosting.drop?.(name)
  }

  /** The handoff cannot be undone any more: closes the entries that this version did not ask for. */
  settle(): void {
    const { hosting, registry } = this.#deps
    this.#bound = null
    this.offered.close()
    for (const name of registry.names) if (!registry.wanted.has(name)) this.#drop(name)
    hosting.removeFormerPaths?.()
  }

  /** Closes all entries. If the handoff can still be undone, removes the Unix paths that this version has bound. */
  close(): void {
    const { registry } = this.#deps
    for (const entry of this.#bound ?? []) if (registry.get(entry.name)?.fd === entry.fd) removePathOf(entry)
    this.#bound = null
    this.offered.close()
    registry.close()
  }

  #drop(name: string): void {
    const { hosting, registry } = this.#deps
    hosting.beforeDrop?.(name)
    registry.drop(name)
  }
}

/** The listeners that may be without a server: all, none, or those with these names. */
type UnservedOption = boolean | readonly string[]

function withoutServer({ adopted, name, address }: Listener): FdbError {
  return new FdbError(
    'ERR_FDB_UNSERVED',
    `listener "${name}" (${address.url})${adopted ? ' was taken over and' : ''} has no server: its clients would wait and never be accepted. Call serve() before ready(), or ready({ unserved: ['${name}'] }) if that is intended`,
    { details: { listener: name } },
  )
}

function openedMeanwhile(name: string, address: string): FdbError {
  return new FdbError(
    'ERR_FDB_UNSERVED',
    `the incumbent opened listener "${name}" (${address}) while this version started, and this version does not listen there: its clients would be refused. Start the upgrade again, so that this version finds it, or call ready({ unserved: ['${name}'] }) if that is intended`,
    { retryable: true, details: { listener: name } },
  )
}

function removePathOf(entry: Entry): void {
  if (entry.role === 'listener') removeUnixPath(entry.fd, entry.spec)
}

/** A listener of the previous version that this version may adopt. */
export interface OfferedListener {
  readonly entry: ListenerEntry
  /** The previous version's specification. Null if a service manager bound the socket, or an older release did not send it. */
  readonly before: ListenerSpec | null
}

/**
 * Chooses the previous version's listener to adopt: the one with the same name and address, else one with the same address and another name.
 * Owns descriptors of previous listeners whose names this version has given to other listeners.
 */
export class OfferedListeners {
  readonly #deps: Pick<HoldingsDeps, 'machine' | 'registry'>
  readonly #renamed: ListenerEntry[] = []
  /** The inodes of the sockets that this version already uses. */
  readonly #used = new Set<string>()

  constructor(deps: Pick<HoldingsDeps, 'machine' | 'registry'>) {
    this.#deps = deps
  }

  /** Returns null if no listener fits, so that the address must be bound. */
  find(name: string, spec: ListenerSpec): OfferedListener | null {
    const { registry } = this.#deps
    const present = registry.get(name)
    if (present?.role === 'listener') {
      const offered = withSpec(present)
      if (isThere(offered, spec) && !this.#used.has(inodeOf(present))) return offered
    }
    // With port 0 the kernel chooses the port, so no other listener has this address.
    if (spec.kind !== 'unix' && spec.port === 0) return null
    const entry = [...this.#all, ...this.#renamed].find(
      other => other.spec !== null && sameAddress(other.spec, spec) && !this.#used.has(inodeOf(other)),
    )
    return entry === undefined ? null : withSpec(entry)
  }

  /** Returns the service's listener that keeps this address from being bound: one of them is a wildcard (0.0.0.0, [::]) with the port of the other. */
  overlapping(spec: ListenerSpec): ListenerEntry | null {
    if (spec.kind === 'unix') return null
    const overlaps = (other: ListenerSpec) =>
      other.kind === spec.kind &&
      other.port === spec.port &&
      (other.host === spec.host || WILDCARDS.has(other.host) || WILDCARDS.has(spec.host))
    return this.#all.find(entry => entry.spec !== null && overlaps(entry.spec)) ?? null
  }

  /** The listeners of the previous version that this version does not use (yet), also those that were opened after the Offer. */
  get unused(): readonly ListenerEntry[] {
    return this.#all.filter(entry => !this.#used.has(inodeOf(entry)))
  }

  get #all(): ListenerEntry[] {
    return this.#deps.registry.listeners
  }

  /** Marks a socket as used, so that {@link find} does not return it again. */
  use(fd: OwnedFd): void {
    this.#used.add(inspectOne(fd).ino)
  }

  /** Lets {@link find} still return the previous version's listener `name`, because the caller gives the name to another listener. */
  rename(name: string): void {
    const { machine, registry } = this.#deps
    const entry = registry.get(name)
    if (entry?.role !== 'listener' || machine.phase !== 'joining') return
    if (!this.#used.has(inodeOf(entry))) this.#renamed.push({ ...entry, fd: entry.fd.share() })
  }

  close(): void {
    closeAll(this.#renamed.splice(0).map(({ fd }) => fd))
  }
}

const WILDCARDS: ReadonlySet<string> = new Set(['0.0.0.0', '::'])

function inodeOf({ fd }: Entry): string {
  return inspectOne(fd).ino
}

function withSpec(entry: ListenerEntry): OfferedListener {
  return { entry, before: entry.spec }
}

function isThere({ entry, before }: OfferedListener, spec: ListenerSpec): boolean {
  return before === null ? isBoundAt(entry.fd, spec) : sameAddress(before, spec)
}

export function sameAddress(a: ListenerSpec, b: ListenerSpec): boolean {
  return addressOf(a) === addressOf(b)
}

/** Whether a socket without a known specification may be bound at this address. Compares Unix paths only; any other socket passes. */
function isBoundAt(fd: OwnedFd, { kind, path, abstract }: ListenerSpec): boolean {
  const { family, address, abstract: hidden = false } = inspectOne(fd)
  return family !== 'unix' || kind !== 'unix' || (address === path && hidden === abstract)
}
