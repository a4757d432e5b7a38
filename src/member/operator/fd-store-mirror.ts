import { DescriptorNames, fdStoreName } from '../../holder/descriptor-names.js'
import type { Entry } from '../../holder/entry.js'
import type { Registry } from '../../holder/registry.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { closeAll, inspect, inspectOne, type OwnedFd } from '../../kernel/index.js'
import type { FdStore } from '../../os/service-manager/passed-sockets.js'
import type { SegmentKind } from '../../state/segment.js'
import type { BundleItem } from '../../wire/bundle.js'
import type { Origin } from '../lifecycle/process-machine.js'
import type { Settings } from '../options/options.js'

export interface FdStoreMirrorDeps {
  readonly settings: Pick<Settings, 'service'>
  readonly origin: Origin
  readonly registry: Registry
  readonly segmentSet: SegmentSet
  /** Returns the descriptors of the control socket. Borrowed. */
  readonly control: () => readonly BundleItem[]
  readonly store: Pick<FdStore, 'drop' | 'keep'> | null
}

/** The number of epochs below the newest whose leftovers are removed from the store. */
const SWEPT_EPOCHS = 8

/**
 * Copies descriptors to systemd's FD store, from which the next process takes them if this process is killed: listeners, the control socket
 * and its lock file, each segment of the state before it is used, and a note with the names. Only the serving process does so, without a
 * daemon. A listener that a version has bound itself is stored when no earlier version can serve again, which could not remove it from the store.
 * Until then the store keeps the listener that had its name.
 */
export class FdStoreMirror {
  readonly #deps: FdStoreMirrorDeps
  /** The identity of each stored descriptor, by name: its inode, or the descriptor itself if the inode does not identify it. */
  readonly #stored = new Map<string, string | OwnedFd>()
  readonly #names: DescriptorNames
  /** The earlier version's listeners in whose place this version has bound others, by name. */
  readonly #former = new Map<string, Entry>()
  /** Names of entries that were closed while another process wrote to the store, which may have them. */
  readonly #closed = new Set<string>()
  #serves = false

  constructor(deps: FdStoreMirrorDeps) {
    const { origin, registry, segmentSet, settings } = deps
    const { generation, serviceStartedAt } = origin
    this.#deps = deps
    this.#names = new DescriptorNames(
      { service: settings.service, generation, serviceStartedAt },
      () => this.#entries,
      () => this.#segments,
    )
    const { changed } = registry
    registry.changed = () => {
      changed()
      this.#update()
    }
    registry.removing = (entry, successor) => this.#removing(entry, successor)
    segmentSet.changed = () => this.#update()
  }

  /** Starts to mirror, because this process serves. Idempotent. */
  start(): void {
    const { store } = this.#deps
    if (store === null || this.#serves || this.#deps.origin.scope === 'member') return
    this.#serves = true
    this.#stored.clear()
    this.#update()
    this.#sweep(store)
  }

  /** Stops mirroring and leaves the store as it is, because another process serves or the service ends. */
  end(): void {
    this.#serves = false
  }

  close(): void {
    const { registry } = this.#deps
    this.end()
    this.#names.close()
    registry.removing = () => {}
    closeAll([...this.#former.values()].map(({ fd }) => fd))
  }

  #removing(entry: Entry, successor: Entry | null): void {
    const { origin, registry, store } = this.#deps
    if (store === null || origin.scope === 'member' || registry.isProvisional(entry)) return
    if (successor !== null && registry.isProvisional(successor) && !this.#former.has(entry.name))
      this.#former.set(entry.name, { ...entry, fd: entry.fd.share() })
    if (!this.#serves) this.#closed.add(fdStoreName(entry.name, inspectOne(entry.fd)))
  }

  #closeFormer(): void {
    const { registry } = this.#deps
    for (const [name, { fd }] of this.#former) {
      const present = registry.get(name)
      if (present !== undefined && registry.isProvisional(present)) continue
      this.#former.delete(name)
      fd.close()
    }
  }

  #update(): void {
    const { store } = this.#deps
    this.#closeFormer()
    if (store === null || !this.#serves) return
    const wanted = this.#wanted()
    for (const [name, { fd, identity }] of wanted) {
      if (this.#stored.get(name) === identity) continue
      if (this.#stored.has(name)) store.drop(name)
      store.keep(name, fd)
      this.#stored.set(name, identity)
    }
    // The note is written between the two loops, so that the store always has all descriptors that the note names.
    this.#names.write()
    for (const name of [...this.#stored.keys()]) {
      if (wanted.has(name)) continue
      store.drop(name)
      this.#stored.delete(name)
    }
  }

  get #entries(): Entry[] {
    const { registry } = this.#deps
    return [...registry.entries.filter(entry => !registry.isProvisional(entry)), ...this.#former.values()]
  }

  get #segments(): string[] {
    return this.#deps.segmentSet.all.map(segmentName)
  }

  /** Removes leftovers of other processes: the notes of the previous and the next generation, closed entries and unused segments. */
  #sweep(store: Pick<FdStore, 'drop'>): void {
    const { origin, segmentSet } = this.#deps
    const { generation } = origin
    for (const neighbour of [generation - 1, generation + 1]) store.drop(`note-${neighbour}`)
    for (const name of this.#closed) if (!this.#stored.has(name)) store.drop(name)
    this.#closed.clear()
    const { top } = segmentSet
    for (let epoch = Math.max(1, top - SWEPT_EPOCHS); epoch <= top + 2; epoch++)
      for (const kind of ['epoch', 'snapshot'] as const)
        if (!this.#stored.has(segmentName({ kind, epoch }))) store.drop(segmentName({ kind, epoch }))
  }

  #wanted(): Map<string, { fd: OwnedFd; identity: string | OwnedFd }> {
    const { control, origin, segmentSet } = this.#deps
    const wanted = new Map<string, { fd: OwnedFd; identity: string | OwnedFd }>()
    const add = (name: string, fd: OwnedFd) => wanted.set(name, { fd, identity: inspectOne(fd).ino })
    for (const segment of segmentSet.all) add(segmentName(segment), segment.fd)
    for (const { role, fd } of control()) add(role, fd)
    const note = this.#names.file
    if (note !== null) add(`note-${origin.generation}`, note)
    const entries = this.#entries
    const seen = inspect(entries.map(({ fd }) => fd))
    entries.forEach(({ fd, name }, i) => {
      const about = seen[i]!
      wanted.set(fdStoreName(name, about), { fd, identity: about.type === 'socket' ? about.ino : fd })
    })
    return wanted
  }
}

function segmentName({ kind, epoch }: { readonly kind: SegmentKind; readonly epoch: number }): string {
  return `${kind}-${epoch}`
}
