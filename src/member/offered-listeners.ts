import type { Entry } from '../holder/registry.js'
import { closeAll, inspectOne, type OwnedFd } from '../kernel/index.js'
import { formatEndpoint, type ListenerSpec, parseListenerSpec } from '../listeners/index.js'
import type { Shared } from './shared.js'

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
  readonly #shared: Shared
  readonly #renamed: Entry[] = []
  /** Inodes of the sockets that this version uses. */
  readonly #used = new Set<string>()

  constructor(shared: Shared) {
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

/** As specs are written, without options. */
function addressOf({ kind, host, path, port, abstract }: ListenerSpec): string {
  return formatEndpoint(kind, kind === 'unix' ? path : host, port, abstract)
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
