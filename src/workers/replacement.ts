import { InOrder } from '../base/in-order.js'
import { FdbError } from '../errors.js'
import { ROLLBACK } from '../operator/service-commands.js'
import type { Ownership } from './ownership.js'
import type { WorkerSlot } from './worker-slot.js'

interface ReplacementDeps {
  readonly ownership: Ownership
  /** Whether the workers after the first one are replaced all at once. */
  readonly atOnce: boolean
  /** Starts the successor when that is possible, unless `isNeeded` returns false by then. Resolves with whether it was started, when it serves. */
  start(slot: WorkerSlot, isNeeded: () => boolean): Promise<boolean>
  order(slot: WorkerSlot, name: string, body: string): Promise<Buffer>
  /** Reduces the number of workers. Resolves when the surplus ones are told to end. */
  reduce(count: number): Promise<void>
  /** A worker was not rolled back. */
  kept(slot: WorkerSlot, reason: unknown): void
  /** Ends the waits of `start` for a worker that is not needed any more. */
  changed(): void
}

/** The orders that replace workers, and the rollback of what they replaced. */
export class WorkerReplacement {
  readonly #deps: ReplacementDeps
  /** The workers that the last order has replaced, each with the generation that has served since. */
  readonly #replaced = new Map<WorkerSlot, number>()
  /** The workers that were started where none served, each with whether the pool has one more by that: none has a previous process. */
  readonly #started = new Map<WorkerSlot, boolean>()
  #orders = 0
  /** Settles with the rollback that is carried out. Until then no further worker is replaced. */
  #rollback: Promise<unknown> | null = null
  /** A rollback has ended the order that was carried out. */
  #isEnded = false
  readonly #rollbacks = new InOrder()

  constructor(deps: ReplacementDeps) {
    this.#deps = deps
  }

  /** Whether an order to replace workers is carried out. */
  get isUnderWay(): boolean {
    return this.#orders > 0
  }

  /** Called when a worker was started where none served. `isNew`: the pool has one more by that. */
  started(slot: WorkerSlot, isNew: boolean): void {
    this.#started.set(slot, isNew || this.#started.get(slot) === true)
  }

  /** Rejects if a worker is not replaced, or if its previous process has taken over again meanwhile. The error names the workers of the previous version. */
  async replaceAll(slots: readonly WorkerSlot[]): Promise<void> {
    const { atOnce, ownership } = this.#deps
    const [first, ...others] = slots
    if (first === undefined) return
    const old = new Set(slots)
    this.#isEnded = false
    this.#replaced.clear()
    for (const slot of slots) this.#started.delete(slot)
    const replace = async (slot: WorkerSlot) => {
      await this.#replace(slot)
      old.delete(slot)
      this.#replaced.set(slot, slot.owner?.generation ?? 0)
    }
    this.#orders++
    try {
      await replace(first)
      if (atOnce) await settleAll(others.map(replace))
      else for (const slot of others) await replace(slot)
      this.#refuseReturned()
    } catch (error) {
      if (!ownership.mayStart) throw error
      const { code, message } = FdbError.from(error)
      for (const slot of this.#returned) old.add(slot)
      const reply = slots
        .filter(slot => old.has(slot))
        .flatMap(({ missing, name, owner }) =>
          (owner === null ? missing : [owner]).map(({ pid }) => `${name} (pid ${pid})`),
        )
      throw new FdbError(
        code,
        `${message}; these workers were not replaced and keep serving: ${reply.join(', ')}`,
        { cause: error },
      )
    } finally {
      this.#orders--
    }
  }

  async #replace(slot: WorkerSlot): Promise<void> {
    for (;;) {
      await this.#rollback
      if (this.#isEnded) throw new FdbError('ERR_FDB_ABORTED', 'an operator has rolled the workers back')
      this.#refuseReturned()
      if (await this.#deps.start(slot, () => this.#rollback === null)) return
    }
  }

  /** The replaced workers of which the previous process serves again. */
  get #returned(): WorkerSlot[] {
    return [...this.#replaced].flatMap(([slot, generation]) =>
      slot.owner !== null && slot.owner.generation < generation ? slot : [],
    )
  }

  /** Throws if a worker was replaced and has returned: all others would be of another version. */
  #refuseReturned(): void {
    const [slot] = this.#returned
    if (slot === undefined) return
    const failure = slot.standing?.lastFailure
    const why = failure == null ? '' : `: ${failure.message}`
    throw new FdbError(
      failure?.code ?? 'ERR_FDB_ABORTED',
      `${slot.name} was replaced, and its previous process has taken over again${why}`,
    )
  }

  /**
   * Rolls back each of these workers whose previous process stands by. Resolves with the reply of the first of them; rejects if there is none, or if
   * others that were replaced together with them serve on: then both versions serve. Ends those without a previous process, see {@link #endStarted}. An order that replaces workers begins with no further one until this
   * is decided, and rejects if a worker has returned; otherwise it continues.
   */
  async rollBack(slots: () => readonly WorkerSlot[]): Promise<Buffer> {
    return await this.#rollbacks.run(async () => {
      const work = this.#rollBack(slots)
      this.#rollback = work.catch(() => {})
      this.#deps.changed()
      const { error, reply } = await work.finally(() => {
        this.#rollback = null
      })
      if (error !== null) throw error
      return reply!
    })
  }

  async #rollBack(slots: () => readonly WorkerSlot[]) {
    // To cancel a start in the instant of its Commit would be one more failure beside the rollback.
    if (this.isUnderWay) await Promise.all(slots().map(slot => slot.whenSettled()))
    const outcomes = await Promise.all(
      slots().map(async slot => {
        const since = (slot.owner?.generation ?? 0) - (this.#replaced.get(slot) ?? Number.POSITIVE_INFINITY)
        const [reply] = await Promise.allSettled([this.#deps.order(slot, ROLLBACK, '')])
        return { slot, since, reply }
      }),
    )
    const returned = outcomes.flatMap(({ reply, since, slot }) =>
      reply.status === 'fulfilled' ? { reply: reply.value, since, slot } : [],
    )
    // A worker that was replaced again since, alone, has another standby.
    const byOrder = returned.some(({ since }) => since === 0)
    const remain = byOrder ? await this.#endStarted(slots()) : []
    const kept = outcomes.flatMap(({ slot, since, reply }) =>
      reply.status === 'rejected' ? { slot, since, reason: reply.reason } : [],
    )
    for (const { slot, reason } of kept) if (slot.isWanted) this.#deps.kept(slot, reason)
    if (returned.length === 0) return { reply: null, error: kept[0]!.reason }
    this.#isEnded = true
    const serveOn = byOrder ? kept.filter(({ slot, since }) => since >= 0 || remain.includes(slot)) : []
    return { reply: returned[0]!.reply, error: serveOn.length > 0 ? serveOnError(serveOn) : null }
  }

  /**
   * Ends added workers, from the last worker on: they are of the version that the others do not have any more. Resolves with the workers without a previous
   * process that remain, because they are as many as before, because others behind them have returned, because no other one serves, or because another main process decides.
   */
  async #endStarted(wanted: readonly WorkerSlot[]): Promise<WorkerSlot[]> {
    const others = wanted.filter(slot => this.#started.get(slot) !== true)
    const serves = others.some(({ owner, isHung }) => owner !== null && !isHung)
    const mayEnd = serves && this.#deps.ownership.mayStart
    const count = mayEnd ? 1 + Math.max(...others.map(({ index }) => index)) : wanted.length
    if (wanted.some(({ index }) => index >= count)) await this.#deps.reduce(count)
    return wanted.filter(slot => this.#started.has(slot) && slot.index < count)
  }
}

function serveOnError(serveOn: readonly { readonly slot: WorkerSlot; readonly reason: unknown }[]): FdbError {
  const { reason } = serveOn[0]!
  const { code, message } = FdbError.from(reason)
  const names = serveOn.map(({ slot: { name, owner } }) => `${name} (pid ${owner?.pid ?? 'none'})`)
  return new FdbError(
    code,
    `${message}; the other workers were rolled back, but these serve on: ${names.join(', ')}`,
    { cause: reason },
  )
}

/** Waits for all promises, then rejects as the first one that has rejected. */
export async function settleAll(works: readonly Promise<unknown>[]): Promise<void> {
  for (const one of await Promise.allSettled(works)) if (one.status === 'rejected') throw one.reason
}
