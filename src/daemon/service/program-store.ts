import { FdbError } from '../../errors.js'
import { closeAll, inspectOne, type OwnedFd, watchHangup } from '../../kernel/index.js'
import type { DescriptorHolder, DescriptorUser, StoredAs } from '../../operator/held-descriptors.js'
import { lineOf } from '../../os/process-identity.js'
import type { DescriptorStore } from './descriptor-store.js'

export interface ProgramStoreParts {
  readonly store: DescriptorStore
  /** The same, as operators use it. */
  readonly holder: Pick<DescriptorHolder, 'put' | 'remove'>
  /** So many are kept for a service. */
  readonly most: number
  readonly refused: (facts: object, message: string) => void
}

interface Hangup {
  readonly fd: OwnedFd
  /** Null: it cannot be seen whether the other side has gone. */
  readonly watch: Disposable | null
}

/** What programs give away at the notify socket, as systemd keeps it for a unit (`FDSTORE=1`), by service: for the next of its programs. */
export class ProgramStore implements Disposable {
  readonly #parts: ProgramStoreParts
  /** Of those that go when their other side has gone, by the name under which they are held. */
  readonly #hangups = new Map<string, Hangup>()
  readonly #unwatch: () => void

  constructor(parts: ProgramStoreParts) {
    this.#parts = parts
    this.#unwatch = parts.store.watch(() => this.#look())
    this.#look()
  }

  get most(): number {
    return this.#parts.most
  }

  /** Of a program, or of what it has started; empty: of none. */
  serviceOf(pid: number): string {
    for (const each of lineOf(pid)) {
      const service = this.#parts.store.serviceOf(each)
      if (service !== null) return service
    }
    return ''
  }

  /** Takes the descriptors. One that is kept already under this name is kept once. Never throws. */
  keep(as: StoredAs, fds: readonly OwnedFd[], by: DescriptorUser): void {
    const { holder, refused } = this.#parts
    for (const fd of fds) {
      try {
        const name = this.#nameFor(as, fd)
        if (name === null) fd.close()
        else holder.put({ name, fd, lifetime: null, ms: null, replace: false, by, stored: as })
      } catch (error) {
        fd.close()
        refused({ err: error, ...as, ...by }, 'a descriptor that a program gave away is not kept')
      }
    }
  }

  /** All that this service has given away under this name. Never throws. */
  drop({ service, name }: Pick<StoredAs, 'service' | 'name'>, by: DescriptorUser): void {
    const { holder, refused, store } = this.#parts
    for (const each of store.stored(service)) {
      if (each.as.name !== name) continue
      try {
        holder.remove(each.name, by)
      } catch (error) {
        refused({ err: error, service, name, ...by }, 'a descriptor that a program gave away stays')
      }
    }
  }

  /** Duplicates, owned by the caller. */
  give(service: string): { readonly fds: OwnedFd[]; readonly names: string[] } {
    const stored = this.#parts.store.stored(service)
    const fds: OwnedFd[] = []
    try {
      for (const { fd } of stored) fds.push(fd.dup())
    } catch (error) {
      closeAll(fds)
      throw error
    }
    return { fds, names: stored.map(({ as }) => as.name) }
  }

  /** What is kept stays. */
  [Symbol.dispose](): void {
    this.#unwatch()
    for (const { watch } of this.#hangups.values()) watch?.[Symbol.dispose]()
    this.#hangups.clear()
  }

  /** Under which it is to be held; null: it is held. */
  #nameFor({ service, name }: StoredAs, fd: OwnedFd): string | null {
    const { most, store } = this.#parts
    const stored = store.stored(service)
    const { dev, ino } = inspectOne(fd)
    const isSame = (other: OwnedFd) => {
      const about = inspectOne(other)
      return about.ino === ino && about.dev === dev && about.type !== 'anon'
    }
    if (stored.some(each => each.as.name === name && isSame(each.fd))) return null
    if (stored.length >= most) {
      throw new FdbError(
        'ERR_FDB_TOO_MANY_NAMES',
        `${most} descriptors are kept for programs of "${service}" already: remove some (FDSTOREREMOVE=1, fd-broker fd remove), or have the daemon keep more (--fdstore-max)`,
      )
    }
    const whole = service === '' ? name : `${service}/${name}`
    if (!store.has(whole)) return whole
    for (let number = 2; ; number++) if (!store.has(`${whole}#${number}`)) return `${whole}#${number}`
  }

  #look(): void {
    const { refused, store } = this.#parts
    const polled = new Map(store.polled().map(({ name, fd }) => [name, fd]))
    for (const [name, { fd, watch }] of this.#hangups) {
      // Another may have its name by now.
      if (polled.get(name) === fd) continue
      watch?.[Symbol.dispose]()
      this.#hangups.delete(name)
    }
    for (const [name, fd] of polled) {
      if (this.#hangups.has(name)) continue
      try {
        const gone = () => store.end(name, 'the other side of a descriptor has gone')
        this.#hangups.set(name, { fd, watch: watchHangup(fd, gone) })
      } catch (error) {
        // With the next change it is tried again.
        refused({ err: error, name }, 'it is not seen when the other side of a descriptor has gone')
      }
    }
  }
}
