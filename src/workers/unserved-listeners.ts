import type { Logger } from '../base/logger.js'
import { inspectOne, type OwnedFd } from '../kernel/index.js'
import type { UnservedListener } from '../member/listeners/worker-orders.js'
import { GROUP_LISTENER } from '../operator/service-commands.js'
import type { WorkerSlot } from './worker-slot.js'

/** Delay before an order that failed is repeated. */
const ORDER_RETRY_MS = 100

/**
 * Assigns the listeners of dead, hung or surplus workers to workers that serve. The listeners stay open, so the kernel still gives them
 * their share of the new connections, which otherwise no process would accept.
 */
export class UnservedListeners {
  readonly #send: (slot: WorkerSlot, unserved: readonly UnservedListener[]) => Promise<unknown>
  readonly #logger: Logger
  /** JSON of each worker's pid and generation, and of the last order that it got; '' if the order failed. */
  readonly #sentOrders = new Map<WorkerSlot, { readonly text: string }>()
  readonly #requestUpdate: () => void

  /** `send` orders a worker to serve exactly these listeners too; `requestUpdate` must call {@link update} again. */
  constructor(
    send: (slot: WorkerSlot, unserved: readonly UnservedListener[]) => Promise<unknown>,
    requestUpdate: () => void,
    logger: Logger,
  ) {
    this.#send = send
    this.#requestUpdate = requestUpdate
    this.#logger = logger
  }

  /** Another main process gives orders from now on. If this one serves again, each worker gets its order once more. */
  forget(): void {
    this.#sentOrders.clear()
  }

  /**
   * Assigns the listeners again, and sends an order to each worker whose assigned listeners have changed, and to each new one: a worker of a
   * main process that has died may still accept on a listener that no other process has.
   */
  update(slots: readonly WorkerSlot[]): void {
    const serving = slots.filter(
      ({ isHung, standing }) => standing?.owner != null && standing.phase !== 'committing' && !isHung,
    )
    const shares = new Map<WorkerSlot, UnservedListener[]>(serving.map(slot => [slot, []]))
    let next = 0
    for (const slot of slots) {
      const { owner = null, phase = 'idle' } = slot.standing ?? {}
      // Listeners stay assigned while a new process of their worker joins: it does not accept yet, and may fail.
      if (
        (owner !== null && !slot.isHung) ||
        (phase === 'rebuilding' && !slot.isHung) ||
        serving.length === 0
      )
        continue
      shares
        .get(serving[next++ % serving.length]!)!
        .push(...ownListeners(slot).map(({ name, key }) => ({ name, key })))
    }
    for (const [slot, unserved] of shares) this.#sendIfChanged(slot, unserved)
  }

  /** Returns a duplicate of an unserved listener, or null if none has this key. */
  listener(key: string, slots: readonly WorkerSlot[]): OwnedFd | null {
    for (const slot of slots) {
      if (!key.startsWith(prefixOf(slot))) continue
      const found = ownListeners(slot).find(one => one.key === key)
      if (found !== undefined) return found.entry.fd.dup()
    }
    return null
  }

  #sendIfChanged(slot: WorkerSlot, unserved: readonly UnservedListener[]): void {
    const { pid, generation } = slot.owner ?? {}
    const text = JSON.stringify([pid, generation, unserved])
    if (this.#sentOrders.get(slot)?.text === text) return
    const order = { text }
    this.#sentOrders.set(slot, order)
    this.#send(slot, unserved).catch(error => {
      this.#logger.debug(
        { worker: slot.index, err: error },
        'a worker could not be told which listeners to serve for others',
      )
      setTimeout(() => {
        if (this.#sentOrders.get(slot) !== order) return
        this.#sentOrders.set(slot, { text: '' })
        this.#requestUpdate()
      }, ORDER_RETRY_MS).unref()
    })
  }
}

/** Returns the listeners that only this worker has. On the others, which all workers share, any worker accepts. A key names the socket, also for the next main process. */
function ownListeners(slot: WorkerSlot) {
  const entries = slot.standing?.entries ?? []
  return entries
    .filter(entry => entry.role === 'listener' && entry.spec?.kind === 'tcp')
    .map(entry => ({ name: entry.name, key: `${prefixOf(slot)}${inspectOne(entry.fd).ino}`, entry }))
}

function prefixOf({ index }: WorkerSlot): string {
  return `${GROUP_LISTENER}of-${index}-`
}
