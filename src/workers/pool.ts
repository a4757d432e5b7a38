import { LONGEST_MS } from '../base/duration.js'
import type { ServiceOperations, Standing } from '../daemon/service/service-operations.js'
import { FdbError } from '../errors.js'
import type { OwnedFd } from '../kernel/index.js'
import { groupKeyOf, standInBody } from '../member/worker-orders.js'
import {
  GROUP_LISTENER,
  RELOAD,
  ROLLBACK,
  STAND_IN,
  STOP,
  stopBody,
  YIELD,
} from '../operator/service-commands.js'
import { slotOf } from '../os/default-control.js'
import { HungWorkers, killWorker } from './hung.js'
import { MOST_WORKERS, type WorkersSettings } from './options.js'
import { UnservedListeners } from './unserved-listeners.js'
import { WorkerSlot } from './worker-slot.js'

const AGAIN_MS = 200
/** It ends with the next sign of health. */
const FREE_MS = 10_000
/** Beyond the time that it has to leave. */
const HEARD_MS = 5_000
/** For a command to a worker: the client that waits for its reply never leaves. */
const FOREVER = new AbortController().signal

/** The service of one worker. */
interface WorkerService {
  readonly operations: Pick<ServiceOperations, 'command' | 'endProbation' | 'standing'>
}

/** The services that the workers are members of. */
export interface WorkerServices {
  /** Another main process may have them. */
  readonly paused: boolean
  get(name: string): WorkerService | undefined
  /** Throws if it is not known. */
  only(name: string): WorkerService
}

/** The places of the workers, and what is done with all of them. */
export class WorkerPool {
  readonly #settings: WorkersSettings
  readonly #slots: WorkerSlot[] = []
  readonly #unserved: UnservedListeners
  readonly #hung: HungWorkers
  /** Those that are too many, by the process that was told so. */
  readonly #told = new Map<WorkerSlot, number>()
  #services: WorkerServices | null = null
  #count: number
  #closing = false
  /** The time at which workers that have not left are killed; on the clock of `performance`. */
  #lateAt = Number.POSITIVE_INFINITY
  #late: NodeJS.Timeout | undefined
  #changed = () => {}

  constructor(settings: WorkersSettings) {
    this.#settings = settings
    this.#count = settings.count
    this.#unserved = new UnservedListeners(
      (slot, unserved) => this.#order(slot, STAND_IN, standInBody(unserved)),
      () => this.update(),
      settings.logger,
    )
    this.#hung = new HungWorkers({
      logger: settings.logger,
      limitMs: settings.hungTimeout,
      slots: () => (this.#services?.paused || this.#closing ? [] : this.#slots),
      changed: () => this.update(),
    })
    this.#fill(this.#count - 1)
  }

  /** How many are to serve. */
  get count(): number {
    return this.#count
  }

  get slots(): readonly WorkerSlot[] {
    return this.#slots
  }

  /** Sets the services; no worker is started before {@link startAll}. */
  oversee(services: WorkerServices): void {
    this.#services = services
  }

  /** Something of the services may have changed. */
  update(): void {
    // Another main process may have them.
    if (this.#services === null || this.#services.paused) return
    for (const slot of this.#slots) {
      slot.update()
      if (!slot.wanted && !this.#closing) this.#haveLeave(slot)
    }
    this.#unserved.update(this.#closing ? [] : this.#slots)
    this.#changed()
  }

  /** A duplicate of a worker's listener; null: none has this key. */
  listener(key: string): OwnedFd | null {
    if (!key.startsWith(GROUP_LISTENER)) return null
    const unserved = this.#unserved.listener(key, this.#slots)
    if (unserved !== null) return unserved
    for (const { standing } of this.#slots)
      for (const entry of standing?.entries ?? []) if (groupKeyOf(entry) === key) return entry.fd.dup()
    return null
  }

  /** The receiver for connections of a worker that leaves; null: no worker serves any more, or it is none of these that leaves. */
  receiver(service: string): Standing['owner'] {
    if (!this.#slots.some(({ name, wanted }) => name === service && !wanted)) return null
    return this.wanted.find(({ hung, owner }) => owner !== null && !hung)?.owner ?? null
  }

  /** The first binds what can be bound once only, so it comes before the others. */
  async startAll(): Promise<void> {
    this.#hung.start()
    const [first, ...others] = this.#slots
    // A main process before this one may have had more.
    for (let index = this.#count; index < MOST_WORKERS; index++)
      if (this.#services?.get(slotOf(this.#settings.service, index))) this.#fill(index)
    await this.#served(first!)
    await Promise.all(others.map(slot => this.#served(slot)))
    await this.resize(this.#count)
  }

  /** Resolves when a process serves there: one that has come back to this main process if there is one. */
  async #served(slot: WorkerSlot): Promise<void> {
    await this.#until(() => slot.owner !== null || (slot.standing?.phase ?? 'idle') === 'idle')
    if (slot.owner === null && !this.#closing) await slot.start()
    if (!this.#closing) slot.keep()
  }

  async replaceAll(slots: readonly WorkerSlot[]): Promise<void> {
    const [first, ...others] = slots
    if (first === undefined) return
    const old = new Set(slots)
    const replace = async (slot: WorkerSlot) => {
      await slot.settled()
      await this.#free(slot)
      await slot.start()
      old.delete(slot)
    }
    try {
      await replace(first)
      if (this.#settings.replace === 'at-once') await allOf(others.map(replace))
      else for (const slot of others) await replace(slot)
    } catch (error) {
      const { code, message } = FdbError.from(error)
      const left = [...old].map(({ name, owner }) => `${name}${owner === null ? '' : ` (pid ${owner.pid})`}`)
      throw new FdbError(code, `${message}; old, and serving on: ${left.join(', ')}`, { cause: error })
    }
  }

  /** Another can come to serve there: a probation under way has ended, as far as it does so in time. */
  async #free(slot: WorkerSlot): Promise<void> {
    this.#services?.get(slot.name)?.operations.endProbation()
    const late = new Promise<void>(resolve => setTimeout(resolve, FREE_MS).unref())
    await Promise.race([late, this.#until(() => slot.standing?.phase === 'idle')])
  }

  async resize(count: number): Promise<void> {
    this.#count = count
    this.#fill(count - 1)
    const lacking = this.#slots.filter(({ index }) => index < count)
    const serve = async (slot: WorkerSlot) => {
      try {
        await this.#served(slot)
      } catch (error) {
        // It is tried again, as with one that has ended.
        if (!this.#closing) slot.keep()
        throw error
      }
    }
    await allOf([...lacking.map(serve), this.#leaveBeyond(count)])
  }

  /** Those that are too many end; their listeners stay here, as they cannot be closed without those who wait there. */
  async #leaveBeyond(count: number): Promise<void> {
    const tooMany = this.#slots.filter(({ index }) => index >= count)
    await Promise.all(tooMany.map(slot => slot.abandon('it is one too many')))
    this.update()
  }

  /** Each process once. */
  #haveLeave(slot: WorkerSlot): void {
    const { owner } = slot
    if (owner === null || this.#told.get(slot) === owner.pid) return
    this.#told.set(slot, owner.pid)
    this.#order(slot, YIELD, '').catch(error => {
      this.#settings.logger.warn(
        { err: error, worker: slot.index },
        'a worker too many cannot be told to end',
      )
      this.#told.delete(slot)
      setTimeout(() => this.update(), AGAIN_MS).unref()
    })
  }

  /** All, the first before the others. Rejects with why the first of those has not that could not. */
  async reloadAll(): Promise<void> {
    const failures: unknown[] = []
    for (const slot of this.wanted) {
      if (slot.hung) failures.push(hangs(slot))
      else await this.#order(slot, RELOAD, '').catch(error => failures.push(error))
    }
    if (failures.length > 0) throw failures[0]
  }

  /** The versions before serve again where they stand by. Resolves with the word of the first that leaves; rejects where none does. */
  async rollback(): Promise<Buffer> {
    const told = await Promise.allSettled(this.wanted.map(slot => this.#order(slot, ROLLBACK, '')))
    const left = told.find(one => one.status === 'fulfilled') ?? told[0]!
    if (left.status === 'rejected') throw left.reason
    return left.value
  }

  get wanted(): WorkerSlot[] {
    return this.#slots.filter(({ wanted }) => wanted)
  }

  /** Workers that a main process before this one has started. */
  get older(): WorkerSlot[] {
    return this.wanted.filter(({ startedHere }) => !startedHere)
  }

  async #order(slot: WorkerSlot, name: string, body: string): Promise<Buffer> {
    const service = this.#services?.only(slot.name)
    const order = { name, body: Buffer.from(body), service: slot.name }
    return Buffer.from((await service?.operations.command(order, { signal: FOREVER })) ?? [])
  }

  /** Ends all workers; kills those that do not hear of it in time. Null: as each is configured, within `stopTimeout`. */
  async endAll(timeoutMs: number | null): Promise<void> {
    this.#closing = true
    this.#hung.stop()
    await Promise.all(this.#slots.map(slot => slot.abandon('its main process ends')))
    const serving = this.#slots.filter(({ owner }) => owner !== null)
    const body = stopBody({ timeoutMs, drop: false })
    for (const slot of serving)
      this.#order(slot, STOP, body).catch(error => {
        // One that has ended answers no more.
        if (slot.owner !== null)
          this.#settings.logger.warn({ err: error, worker: slot.index }, 'a worker cannot be told to end')
      })
    const { stopTimeout } = this.#settings
    if (timeoutMs !== null) this.hasten(timeoutMs)
    else if (stopTimeout !== null) this.#killAfter(stopTimeout)
    await this.#until(() => this.#slots.every(({ owner }) => owner === null))
    clearTimeout(this.#late)
  }

  /** Everybody leaves already: who has not within this time, and a moment, is killed. A later time than one before changes nothing. */
  hasten(timeoutMs: number): void {
    this.#killAfter(timeoutMs + HEARD_MS)
  }

  #killAfter(ms: number): void {
    const at = performance.now() + ms
    if (at >= this.#lateAt) return
    this.#lateAt = at
    clearTimeout(this.#late)
    this.#late = setTimeout(() => this.#killAll(), Math.min(ms, LONGEST_MS))
  }

  #killAll(): void {
    for (const { index, owner } of this.#slots)
      if (owner !== null)
        killWorker(index, owner, 'a worker has not left in time: it is killed', this.#settings.logger)
  }

  async #until(holds: () => boolean): Promise<void> {
    while (!holds()) {
      await new Promise<void>(resolve => {
        const before = this.#changed
        this.#changed = () => {
          this.#changed = before
          before()
          resolve()
        }
      })
    }
  }

  /** Places up to this one. */
  #fill(last: number): void {
    const standing = (name: string) => this.#services?.get(name)?.operations.standing ?? null
    for (let index = this.#slots.length; index <= last; index++)
      this.#slots.push(new WorkerSlot(index, { settings: this.#settings, standing }))
  }
}

function hangs({ name, owner }: WorkerSlot): FdbError {
  const why = `${name} (pid ${owner?.pid ?? 0}) hangs, and has not read its configuration anew: try again when it was replaced`
  return new FdbError('ERR_FDB_BUSY', why, { retryable: true })
}

/** Rejects when all have come to their ends, with what the first has rejected with. */
async function allOf(works: readonly Promise<unknown>[]): Promise<void> {
  for (const one of await Promise.allSettled(works)) if (one.status === 'rejected') throw one.reason
}
