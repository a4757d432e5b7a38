import type { Logger } from '../base/logger.js'
import type { OwnedFd } from '../kernel/index.js'
import type { UnservedListener } from '../member/worker-orders.js'
import { GROUP_LISTENER } from '../operator/service-commands.js'
import type { WorkerSlot } from './worker-slot.js'

/** A worker that could not be told is told again. */
const AGAIN_MS = 100

/** The last order to a worker that serves. */
interface Told {
  /** Its process, and the order. */
  readonly text: string
}

/**
 * Listeners without a worker (dead, hung or surplus). The kernel goes on to give each its part of new connections, which would be lost
 * with it: another worker serves each meanwhile.
 */
export class UnservedListeners {
  readonly #tell: (slot: WorkerSlot, unserved: readonly UnservedListener[]) => Promise<unknown>
  readonly #logger: Logger
  readonly #told = new Map<WorkerSlot, Told>()

  readonly #again: () => void

  /** `again`: everything is to be looked at once more. */
  constructor(
    tell: (slot: WorkerSlot, unserved: readonly UnservedListener[]) => Promise<unknown>,
    again: () => void,
    logger: Logger,
  ) {
    this.#tell = tell
    this.#again = again
    this.#logger = logger
  }

  /** Something may have changed: a worker that must serve others' listeners than before is told. */
  update(slots: readonly WorkerSlot[]): void {
    const serving = slots.filter(
      ({ hung, standing }) => standing?.owner != null && standing.phase !== 'committing' && !hung,
    )
    const shares = new Map<WorkerSlot, UnservedListener[]>(serving.map(slot => [slot, []]))
    let next = 0
    for (const slot of slots) {
      const { owner = null, phase = 'idle' } = slot.standing ?? {}
      // A process that has joined there need not come to serve.
      if ((owner !== null && !slot.hung) || phase === 'rebuilding' || serving.length === 0) continue
      shares.get(serving[next++ % serving.length]!)!.push(...unservedOf(slot))
    }
    for (const [slot, unserved] of shares) this.#order(slot, unserved)
  }

  /** A duplicate of the one of this key; null: it is no key of these. */
  listener(key: string, slots: readonly WorkerSlot[]): OwnedFd | null {
    for (const slot of slots) {
      if (!key.startsWith(prefixOf(slot))) continue
      const found = unservedIn(slot).find(one => one.key === key)
      if (found !== undefined) return found.entry.fd.dup()
    }
    return null
  }

  #order(slot: WorkerSlot, unserved: readonly UnservedListener[]): void {
    const { pid, generation } = slot.owner ?? {}
    const text = JSON.stringify([pid, generation, unserved])
    const before = this.#told.get(slot)
    if (before?.text === text || (before === undefined && unserved.length === 0)) return
    const told = { text }
    this.#told.set(slot, told)
    this.#tell(slot, unserved).catch(error => {
      this.#logger.debug({ worker: slot.index, err: error }, 'a worker cannot be told whom it serves for')
      setTimeout(() => {
        if (this.#told.get(slot) !== told) return
        this.#told.set(slot, { text: '' })
        this.#again()
      }, AGAIN_MS).unref()
    })
  }
}

function unservedOf(slot: WorkerSlot): UnservedListener[] {
  return unservedIn(slot).map(({ name, key }) => ({ name, key }))
}

/** Those that are its own: what all share is served by the others anyway. */
function unservedIn(slot: WorkerSlot) {
  const entries = slot.standing?.entries ?? []
  return entries
    .filter(({ role, spec }) => role === 'listener' && spec.startsWith('tcp:'))
    .map((entry, at) => ({ name: entry.name, key: `${prefixOf(slot)}${at}`, entry }))
}

function prefixOf({ index }: WorkerSlot): string {
  return `${GROUP_LISTENER}of-${index}-`
}
