import { DescriptorNames, fdStoreName } from '../holder/descriptor-names.js'
import { inspect, inspectOne, type OwnedFd } from '../kernel/index.js'
import type { FdStore } from '../os/service-manager/passed-sockets.js'
import type { SegmentKind } from '../state/segment.js'
import type { BundleItem } from '../wire/bundle.js'
import type { MemberContext } from './member-context.js'

export interface FdStoreMirrorDeps {
  readonly shared: MemberContext
  /** The control socket and its lock. Borrowed. */
  readonly control: () => readonly BundleItem[]
  /** Null: there is no FD store. */
  readonly store: FdStore | null
}

/** Epochs below the newest that may have been kept in vain. */
const SWEPT = 8

/**
 * Keeps systemd's FD store equal to what a next process needs to go on if this one is killed: listeners, the control socket with its lock,
 * and the segments of the state, each before it is used. Only for the process that serves, without a daemon.
 */
export class FdStoreMirror {
  readonly #deps: FdStoreMirrorDeps
  /** By its name what is kept: the inode, or where that does not tell one from another the descriptor. */
  readonly #kept = new Map<string, string | OwnedFd>()
  readonly #note: DescriptorNames
  #serves = false

  constructor(deps: FdStoreMirrorDeps) {
    const { generation, registry, serviceStartedAt, settings } = deps.shared
    this.#deps = deps
    this.#note = new DescriptorNames(
      { service: settings.service, generation, serviceStartedAt },
      () => registry.entries,
      () => this.#segments,
    )
  }

  /** This process serves. Idempotent. */
  start(): void {
    const { shared, store } = this.#deps
    const { machine, registry, segmentSet } = shared
    if (store === null || this.#serves || machine.member.scope === 'member') return
    this.#serves = true
    this.#kept.clear()
    const { changed } = registry
    registry.changed = () => {
      changed()
      this.#update()
    }
    segmentSet.changed = () => this.#update()
    this.#update()
    this.#sweep(store)
  }

  /** Another does, or the service ends: what is kept is not this process's matter any more. */
  end(): void {
    this.#serves = false
    this.#deps.shared.segmentSet.changed = () => {}
  }

  close(): void {
    this.end()
    this.#note.close()
  }

  #update(): void {
    const { store } = this.#deps
    if (store === null || !this.#serves) return
    const wanted = this.#wanted()
    for (const [name, { fd, is }] of wanted) {
      if (this.#kept.get(name) === is) continue
      if (this.#kept.has(name)) store.drop(name)
      store.keep(name, fd)
      this.#kept.set(name, is)
    }
    // It names nothing that is not kept; nothing is let go of that it names.
    this.#note.write()
    for (const name of [...this.#kept.keys()]) {
      if (wanted.has(name)) continue
      store.drop(name)
      this.#kept.delete(name)
    }
  }

  get #segments(): string[] {
    return this.#deps.shared.segmentSet.all.map(nameOf)
  }

  /** Removes what other processes have stored under names that are not used any more: of the versions beside, and empty segments. */
  #sweep(store: FdStore): void {
    const { generation, segmentSet } = this.#deps.shared
    for (const beside of [generation - 1, generation + 1]) store.drop(`note-${beside}`)
    const { top } = segmentSet
    for (let epoch = Math.max(1, top - SWEPT); epoch <= top + 2; epoch++)
      for (const kind of ['epoch', 'snapshot'] as const)
        if (!this.#kept.has(nameOf({ kind, epoch }))) store.drop(nameOf({ kind, epoch }))
  }

  #wanted(): Map<string, { fd: OwnedFd; is: string | OwnedFd }> {
    const { control, shared } = this.#deps
    const { generation, registry, segmentSet } = shared
    const note = this.#note.file
    const named: [string, OwnedFd][] = [
      ...segmentSet.all.map(segment => [nameOf(segment), segment.fd] as [string, OwnedFd]),
      ...control().map(({ role, fd }) => [role, fd] as [string, OwnedFd]),
      ...(note === null ? [] : [[`note-${generation}`, note] as [string, OwnedFd]]),
    ]
    const wanted = new Map<string, { fd: OwnedFd; is: string | OwnedFd }>(
      named.map(([name, fd]) => [name, { fd, is: inspectOne(fd).ino }]),
    )
    const { entries } = registry
    const seen = inspect(entries.map(({ fd }) => fd))
    entries.forEach(({ fd, name }, i) => {
      const about = seen[i]!
      wanted.set(fdStoreName(name, about), { fd, is: about.type === 'socket' ? about.ino : fd })
    })
    return wanted
  }
}

function nameOf({ kind, epoch }: { readonly kind: SegmentKind; readonly epoch: number }): string {
  return `${kind}-${epoch}`
}
