import { closeAll } from '../kernel/index.js'
import type { NamedEntry } from './entry.js'
import { MAX_ENTRIES } from './registry.js'

/** The descriptors that a successor has named since its Commit: the incumbent gets them if it takes over again. Owns them. */
export class SuccessorNames {
  readonly #entries = new Map<string, NamedEntry>()

  /** Owns the descriptor; closes an earlier one of that name. More than {@link MAX_ENTRIES} are closed: the successor refuses them too. */
  put(entry: NamedEntry): void {
    const present = this.#entries.get(entry.name)
    if (present === undefined && this.#entries.size >= MAX_ENTRIES) {
      entry.fd.close()
      return
    }
    present?.fd.close()
    this.#entries.set(entry.name, entry)
  }

  /** Removes and returns all entries; the caller owns them. */
  take(): NamedEntry[] {
    const all = [...this.#entries.values()]
    this.#entries.clear()
    return all
  }

  close(): void {
    closeAll(this.take().map(({ fd }) => fd))
  }
}
