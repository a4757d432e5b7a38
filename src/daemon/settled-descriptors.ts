import { FdbError } from '../errors.js'
import type { DescriptorStore } from '../holder/daemon/descriptor-store.js'
import type { OwnedFd } from '../kernel/index.js'
import type {
  DescriptorHolder,
  DescriptorOrder,
  DescriptorUser,
  HeldDescriptor,
} from '../operator/held-descriptors.js'

/** Descriptors of a daemon, of which none may come or go while the daemon is handed over. */
export class SettledDescriptors implements DescriptorHolder {
  readonly #store: DescriptorStore
  readonly #handsOver: () => boolean

  constructor(store: DescriptorStore, handsOver: () => boolean) {
    this.#store = store
    this.#handsOver = handsOver
  }

  list(): HeldDescriptor[] {
    return this.#store.list()
  }

  put(order: DescriptorOrder): void {
    try {
      this.#refuse()
    } catch (error) {
      order.fd.close()
      order.lifetime?.close()
      throw error
    }
    this.#store.put(order)
  }

  claim(name: string, by: DescriptorUser, shared: boolean): OwnedFd {
    return this.#store.claim(name, by, shared)
  }

  release(name: string, by: DescriptorUser): void {
    this.#store.release(name, by)
  }

  remove(name: string): void {
    this.#refuse()
    this.#store.remove(name)
  }

  left(by: DescriptorUser): void {
    this.#store.left(by)
  }

  watch(changed: () => void): () => void {
    return this.#store.watch(changed)
  }

  /** Throws ERR_FDB_BUSY. */
  #refuse(): void {
    if (!this.#handsOver()) return
    throw new FdbError('ERR_FDB_BUSY', 'the daemon is being upgraded: try again', { retryable: true })
  }
}
