import { constants } from 'node:os'
import { isDeepStrictEqual } from 'node:util'
import { afterReading, type Limit } from '../base/after-reading.js'
import { LONGEST_MS } from '../base/duration.js'
import type {
  MemberProcess,
  ServiceOperations,
  ServiceStanding,
} from '../daemon/service/service-operations.js'
import { FdbError } from '../errors.js'
import type { OwnedFd } from '../kernel/index.js'
import { groupKeyOf, standInBody } from '../member/listeners/worker-orders.js'
import { GROUP_LISTENER, RELOAD, STAND_IN, STOP, stopBody, YIELD } from '../operator/service-commands.js'
import { slotOf } from '../os/default-control.js'
import { signalVerified } from '../os/process-identity.js'
import { ChangeNotifier } from '../wire/pending.js'
import { HungWorkers, killWorker } from './hung.js'
import { MOST_WORKERS, type WorkersSettings } from './options.js'
import { Ownership } from './ownership.js'
import { settleAll, WorkerReplacement } from './replacement.js'
import { UnservedListeners } from './unserved-listeners.js'
import { WorkerSlot, type WorkerSlotDeps } from './worker-slot.js'

const LEAVE_RETRY_MS = 200
/** Maximum time to wait, before a worker is replaced, for its healthy heartbeat after its probation, or for the end of a handoff. */
const HANDOFF_MS = 10_000
/** Maximum time to wait, before a worker is replaced, for the end of a process that was told to leave. */
const LEAVE_MS = 10_000
/** Added to the time limit of an order to end, which may reach a worker late, before the worker is killed. */
const NOTICE_MS = 5_000
/** The other workers change the state through the first one, which accepts until they have ended, but no longer than that. So do its own older generations, but need no listener. */
const FIRST_ACCEPTS_MS = 1_000
const NEVER_ABORTED = new AbortController().signal
const NEVER = new Promise<void>(() => {})

/** The last order to a worker to stop serving, and the process that got it. */
interface LeaveOrder {
  readonly pid: number
  readonly name: typeof STOP | typeof YIELD
  readonly body: string
}

interface WorkerService {
  readonly operations: Pick<
    ServiceOperations,
    'cancelHandoff' | 'closeListeners' | 'endDraining' | 'note' | 'order' | 'standing'
  >
}

export interface WorkerServices {
  /** Whether another main process may have taken over, or is about to. */
  readonly paused: boolean
  get(name: string): WorkerService | undefined
  /** Throws if the service is unknown. */
  find(name: string): WorkerService
}

/** The slots of all workers, and the operations that concern all of them. */
export class WorkerPool {
  readonly #settings: WorkersSettings
  readonly #ownership = new Ownership()
  readonly #slots: WorkerSlot[] = []
  readonly #unserved: UnservedListeners
  readonly #hung: HungWorkers
  /** Workers whose process was told to stop serving: surplus ones, and all of them when this main process ends. */
  readonly #leaving = new Map<WorkerSlot, LeaveOrder>()
  readonly #replacement: WorkerReplacement
  #services: WorkerServices | null = null
  #count: number
  #closing = false
  /** The time for all workers to end; null: as each configures. */
  #endsWithin: number | null = null
  /** The body of the order to stop, from the moment at which no worker is being started any more and this main process ends. */
  #stopBody: string | null = null
  /** The first worker ends in steps: it answers its last requests when it accepts no more, and it leaves when no other worker needs it, or after half of the time to end. */
  #first: 'accepts' | 'answers' | 'leaves' = 'accepts'
  /** The time for the first worker to end, from its first order on; null: as it configures. */
  #firstEndsWithin: number | null | undefined
  #firstTimer: NodeJS.Timeout | undefined
  /** When the remaining workers are killed, as `performance.now()`. */
  #killAt = Number.POSITIVE_INFINITY
  #killLimit: Limit | undefined
  readonly #changes = new ChangeNotifier()

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
    this.#replacement = new WorkerReplacement({
      ownership: this.#ownership,
      atOnce: settings.replace === 'at-once',
      start: (slot, isNeeded) => this.#start(slot, isNeeded),
      order: (slot, name, body) => this.#order(slot, name, body),
      reduce: count => {
        this.#count = count
        return this.#endSurplus()
      },
      kept: ({ index }, err) => settings.logger.warn({ worker: index, err }, 'a worker was not rolled back'),
      changed: () => this.#changes.notify(),
    })
    this.#addSlots(this.#count - 1)
  }

  get count(): number {
    return this.#count
  }

  get slots(): readonly WorkerSlot[] {
    return this.#slots
  }

  setServices(services: WorkerServices): void {
    this.#services = services
  }

  /** Whether this main process may start and end workers. Otherwise another main process has taken over. */
  get isOwner(): boolean {
    return this.#ownership.isHeld
  }

  /** Throws ERR_FDB_CLOSED if this main process ends, or if another one has taken over. */
  demandRight(): void {
    this.#ownership.demand()
  }

  /** Called when another main process has taken over: cancels everything that this one does with workers. */
  lose(): void {
    this.#hung.stop()
    this.#unserved.forget()
    for (const slot of this.#slots) {
      // A worker that has begun to serve since the last update must not be ended with its start.
      slot.observe()
      slot.cancelRestart()
    }
    this.#ownership.lose()
    this.#changes.notify()
  }

  /** Called when a service may have changed. If this main process serves again, because the next one has failed, goes on with the workers. */
  update(): void {
    if (this.#services === null) return
    if (this.#services.paused) {
      // A handoff that was under way goes on: without its success the worker that serves would be ended when another main process takes over.
      for (const slot of this.#slots) slot.observe()
      return
    }
    if (!this.isOwner) {
      this.#ownership.regain()
      if (!this.#closing) this.#hung.start()
    }
    for (const slot of this.#slots) {
      slot.update()
      if (this.#stopBody !== null) {
        const body = slot.index === 0 ? this.#bodyOfFirst() : this.#stopBody
        if (body === null) continue
        this.#tellToLeave(slot, STOP, body)
        this.#services.get(slot.name)?.operations.closeListeners()
      } else if (!slot.isWanted && !this.#closing) this.#tellToLeave(slot, YIELD, '')
    }
    this.#unserved.update(this.#closing ? [] : this.#slots)
    this.#changes.notify()
  }

  /** Returns a duplicate of a worker's listener, or null if no listener has this key. */
  listener(key: string): OwnedFd | null {
    if (!key.startsWith(GROUP_LISTENER)) return null
    const unserved = this.#unserved.listener(key, this.#slots)
    if (unserved !== null) return unserved
    for (const { standing } of this.#slots)
      for (const entry of standing?.entries ?? []) if (groupKeyOf(entry) === key) return entry.fd.dup()
    return null
  }

  isSurplus(service: string): boolean {
    return this.#slots.some(({ name, isWanted }) => name === service && !isWanted)
  }

  /** Whether the worker is surplus, and no process of it is left. The listeners stay open. */
  hasEnded(slot: WorkerSlot): boolean {
    return !slot.isWanted && slot.living.length === 0
  }

  /** Returns the worker to which a surplus worker's connections move; null if no worker can take them, or `service` is not surplus. */
  receiver(service: string): ServiceStanding['owner'] {
    if (!this.isSurplus(service)) return null
    return this.wantedSlots.find(({ isHung, owner }) => owner !== null && !isHung)?.owner ?? null
  }

  /**
   * Starts the first worker, which binds the addresses that only one process can bind, then the others. Rejects if one fails to start. If
   * `takesOver`, or if a worker of a previous main process lives, a worker that fails is started again later instead: the failure must not
   * end the service.
   */
  async startAll({ takesOver }: { readonly takesOver: boolean }): Promise<void> {
    this.#hung.start()
    const [first, ...others] = this.#slots
    const goesOn = () => takesOver || this.ofPredecessor.length > 0
    const start = async (slot: WorkerSlot) => {
      slot.isAdded = goesOn() && this.#services?.get(slot.name) === undefined
      try {
        await this.#ensureServing(slot)
      } catch (error) {
        if (!goesOn() || !this.#ownership.mayStart) throw error
        this.#settings.logger.error({ worker: slot.index, err: error }, 'a worker failed to start')
        slot.keepServing()
      }
    }
    // The surplus workers of the previous main process are ended below.
    this.#addPredecessorSlots()
    await start(first!)
    await Promise.all(others.map(start))
    await this.#endSurplus()
  }

  /**
   * Resolves when a process serves in the slot: one of the previous main process that has reconnected to this one, or a new one. A process
   * that was told to leave does not count. If that process has not left after {@link LEAVE_MS}, a new one replaces it. Rejects with
   * ERR_FDB_DEADLINE if a process of the previous main process lives and does not reconnect in time.
   */
  async #ensureServing(slot: WorkerSlot): Promise<void> {
    this.#ownership.demand()
    slot.keepPlace()
    const { signal } = this.#ownership
    const { timeout } = this.#settings
    const isDecided = () => slot.owner !== null || (slot.standing?.phase ?? 'idle') === 'idle'
    await this.#changes.until(isDecided, timeout, signal)
    if (slot.owner === null && slot.isRecovering) throw notBackError(slot, timeout)
    await this.#changes.until(() => !this.#isLeaving(slot), LEAVE_MS, signal)
    // A worker that has ended may be starting again.
    await slot.whenSettled()
    const isNew = this.#services?.get(slot.name) === undefined
    if (await this.#start(slot, () => slot.owner === null || this.#isLeaving(slot)))
      this.#replacement.started(slot, isNew)
    this.#keepServing(slot)
  }

  /**
   * Starts a process as {@link WorkerSlot.start} does, if `isNeeded`, but not during another start, and not while another main process may
   * take over. Waits for the end of a probation or handoff, and until each released process has let the listeners go: until then no other process can
   * join; after {@link HANDOFF_MS} more it tries nevertheless. After each wait checks everything again. Resolves with whether it has started one.
   */
  async #start(slot: WorkerSlot, isNeeded: () => boolean = () => true): Promise<boolean> {
    const isFree = () => {
      const { bound = [], phase = 'idle' } = slot.standing ?? {}
      return phase === 'idle' && bound.length === 0
    }
    const isDecided = () => this.#services?.paused !== true
    let waitsUntil: number | null = null
    for (;;) {
      this.#ownership.demand()
      const { signal } = this.#ownership
      const now = performance.now()
      if (slot.isStarting) await slot.whenSettled()
      else if (!isNeeded()) return false
      else if (!isDecided()) await this.#changes.until(isDecided, null, signal)
      else if (!isFree() && now < (waitsUntil ?? Number.POSITIVE_INFINITY)) {
        waitsUntil ??= now + (slot.standing?.probationLeftMs ?? 0) + HANDOFF_MS
        await this.#changes.until(() => isFree() || !isNeeded(), waitsUntil - now, signal)
      } else {
        await slot.start()
        return true
      }
    }
  }

  /** Unless the number of workers was reduced meanwhile. */
  #keepServing(slot: WorkerSlot): void {
    if (this.#ownership.mayStart && slot.index < this.#count) slot.keepServing()
  }

  /** Whether the process in the slot was told to leave and still serves. */
  #isLeaving(slot: WorkerSlot): boolean {
    const { owner } = slot
    return owner !== null && this.#leaving.get(slot)?.pid === owner.pid
  }

  /** See {@link WorkerReplacement.replaceAll}. */
  async replaceAll(slots: readonly WorkerSlot[]): Promise<void> {
    // A main process that ends wants no workers: then there is nothing to replace, and the order is not carried out.
    this.#ownership.demand()
    await this.#replacement.replaceAll(slots)
  }

  /** Replaces the workers of the previous main process. Rejects also if one that has ended meanwhile does not start. */
  async renew(): Promise<void> {
    await this.replaceAll(this.ofPredecessor)
    const others = this.wantedSlots.filter(({ isStartedHere }) => !isStartedHere)
    await settleAll(others.map(slot => this.#ensureServing(slot)))
  }

  /** Whether an order to replace workers is carried out, amid which {@link rollback} can be ordered. */
  get isReplacing(): boolean {
    return this.#replacement.isUnderWay
  }

  async resize(count: number): Promise<void> {
    this.#ownership.demand()
    const before = this.#count
    this.#count = count
    this.#addSlots(count - 1)
    const lacking = this.#slots.filter(({ index }) => index < count)
    for (const slot of lacking) slot.isAdded ||= slot.index >= before && slot.owner === null
    const serve = async (slot: WorkerSlot) => {
      try {
        await this.#ensureServing(slot)
      } catch (error) {
        // From now on the slot tries to start a process again, with a growing delay.
        this.#keepServing(slot)
        throw error
      }
    }
    await settleAll([...lacking.map(serve), this.#endSurplus()])
  }

  /** Ends surplus workers. This process keeps their listeners open, so that clients in the listeners' queues are not dropped. */
  async #endSurplus(): Promise<void> {
    const tooMany = this.#slots.filter(({ index }) => index >= this.#count)
    await Promise.all(tooMany.map(slot => slot.abandon('the number of workers was reduced')))
    this.update()
  }

  /** Tells each process of the worker once to stop serving, and again if the body is another one. Repeats an order that failed. */
  #tellToLeave(slot: WorkerSlot, name: typeof STOP | typeof YIELD, body: string): void {
    const { owner } = slot
    const before = this.#leaving.get(slot)
    const order = { pid: owner?.pid ?? 0, name, body }
    if (owner === null || isDeepStrictEqual(before, order)) return
    this.#leaving.set(slot, order)
    this.#order(slot, name, body).catch(error => {
      if (this.#leaving.get(slot) !== order) return
      // A worker that has ended cannot reply.
      if (slot.owner !== null)
        this.#settings.logger.warn(
          { err: error, worker: slot.index },
          'a worker could not be told to end; this is retried',
        )
      setTimeout(() => {
        if (this.#leaving.get(slot) === order) this.#leaving.delete(slot)
        this.update()
      }, LEAVE_RETRY_MS).unref()
    })
  }

  /** Tells the workers one after the other to read their configuration again. Tries all of them, then rejects with the first failure. */
  async reloadAll(): Promise<void> {
    this.#ownership.demand()
    const failures: unknown[] = []
    for (const slot of this.wantedSlots) {
      if (slot.isHung) failures.push(hungError(slot))
      else await this.#order(slot, RELOAD, '').catch(error => failures.push(error))
    }
    if (failures.length > 0) throw failures[0]
  }

  /** See {@link WorkerReplacement.rollBack}. */
  async rollback(): Promise<Buffer> {
    this.#ownership.demand()
    return await this.#replacement.rollBack(() => this.wantedSlots)
  }

  get wantedSlots(): WorkerSlot[] {
    return this.#slots.filter(({ isWanted: wanted }) => wanted)
  }

  /** The workers that the previous main process started, also those whose process has not reconnected to this one yet: it would serve on. */
  get ofPredecessor(): WorkerSlot[] {
    return this.wantedSlots.filter(
      ({ isRecovering, isStartedHere, owner }) => !isStartedHere && (owner !== null || isRecovering),
    )
  }

  /** Sends a signal to all processes of all workers, also to those that stand by, drain, or have not reconnected to this main process. */
  signalAll(signal: NodeJS.Signals): void {
    for (const { index, living } of this.#slots)
      for (const process of living) this.#signal(index, process, signal)
  }

  #signal(index: number, { identity, pid, pidfd, proven }: MemberProcess, signal: NodeJS.Signals): void {
    const why = signalVerified(identity, proven ? pidfd : null, constants.signals[signal])
    if (why !== null)
      this.#settings.logger.warn({ worker: index, pid, signal, why }, 'a worker did not get a signal')
  }

  async #order(slot: WorkerSlot, name: string, body: string): Promise<Buffer> {
    const service = this.#services?.find(slot.name)
    const order = { name, body: Buffer.from(body), service: slot.name }
    return Buffer.from((await service?.operations.order(order, { signal: NEVER_ABORTED })) ?? [])
  }

  /**
   * Ends all workers, and resolves when no process of them is left. Kills those that live {@link NOTICE_MS} after `timeoutMs`. If that is
   * null, each drains as its own configuration says, and is killed after `stopTimeout` if it still serves. Also resolves with `takenOver`:
   * from then on the workers belong to another main process.
   */
  async endAll(timeoutMs: number | null, takenOver: Promise<void> = NEVER): Promise<void> {
    this.#closing = true
    this.#endsWithin = timeoutMs
    this.#hung.stop()
    this.#addPredecessorSlots()
    const abandoned = this.#slots.map(slot => slot.abandon('its main process ends'))
    this.#ownership.close()
    await Promise.all(abandoned)
    this.#stopBody = stopBody({ timeoutMs: this.#endsWithin, drop: true })
    const { stopTimeout } = this.#settings
    let stopLimit: Limit | undefined
    if (this.#endsWithin !== null) this.#killWithin(this.#endsWithin)
    else if (stopTimeout !== null)
      stopLimit = afterReading(stopTimeout, () =>
        this.#kill(({ missing, owner }) => (owner === null ? missing : [owner])),
      )
    this.update()
    this.#limitFirst()
    // A worker that does not serve any more still answers its last requests. In a container it would be killed with the main process. A worker
    // that has not reconnected gets the order when it does.
    const ended = () => this.#slots.every(({ living }) => living.length === 0)
    await Promise.race([this.#changes.until(ended, null), takenOver])
    stopLimit?.clear()
    this.#killLimit?.clear()
    clearTimeout(this.#firstTimer)
  }

  /** Returns null while the first worker accepts. */
  #bodyOfFirst(): string | null {
    const isAlone = this.#slots.every(({ index, living }) => index === 0 || living.length === 0)
    if (isAlone && !this.#slots[0]?.hasOlder) this.#first = 'leaves'
    else if (isAlone && this.#first === 'accepts') this.#first = 'answers'
    if (this.#first === 'accepts') return null
    if (this.#firstEndsWithin === undefined) {
      const left = Math.max(0, this.#killAt - NOTICE_MS - performance.now())
      this.#firstEndsWithin = this.#endsWithin === null ? null : Math.round(left)
    }
    return stopBody({
      timeoutMs: this.#firstEndsWithin,
      drop: true,
      isFollowed: this.#first === 'answers',
    })
  }

  /** Sets the timer for the next step of the first worker, which leaves after `leavesMs` at the latest. */
  #limitFirst(
    leavesMs = (this.#endsWithin ?? this.#settings.stopTimeout ?? Number.POSITIVE_INFINITY) / 2,
  ): void {
    clearTimeout(this.#firstTimer)
    const next = this.#first === 'accepts' && FIRST_ACCEPTS_MS < leavesMs ? 'answers' : 'leaves'
    const ms = next === 'answers' ? FIRST_ACCEPTS_MS : leavesMs
    if (this.#first === 'leaves' || ms === Number.POSITIVE_INFINITY) return
    this.#firstTimer = setTimeout(
      () => {
        this.#first = next
        this.update()
        this.#limitFirst(leavesMs - ms)
      },
      Math.min(ms, LONGEST_MS),
    )
  }

  /** Sets the time for all processes to end, unless it is longer than the time that is left. After it and {@link NOTICE_MS} they are killed. */
  shortenDeadline(timeoutMs: number): void {
    if (!this.isOwner) return
    if (this.#stopBody === null) {
      this.#endsWithin = Math.min(timeoutMs, this.#endsWithin ?? Number.POSITIVE_INFINITY)
      return
    }
    if (!this.#killWithin(timeoutMs)) return
    this.#endsWithin = timeoutMs
    this.#stopBody = stopBody({ timeoutMs, drop: true })
    this.#firstEndsWithin = undefined
    this.#limitFirst()
    this.update()
    for (const { name } of this.#slots) this.#services?.get(name)?.operations.endDraining(timeoutMs)
  }

  /** Returns whether that is sooner than before. */
  #killWithin(timeoutMs: number): boolean {
    const ms = timeoutMs + NOTICE_MS
    const at = performance.now() + ms
    if (at >= this.#killAt) return false
    this.#killAt = at
    this.#killLimit?.clear()
    this.#killLimit = afterReading(ms, () => this.#kill(({ living }) => living))
    return true
  }

  #kill(chosen: (slot: WorkerSlot) => readonly MemberProcess[]): void {
    for (const slot of this.#slots)
      for (const process of chosen(slot))
        killWorker(slot.index, process, 'a worker has not left in time: it is killed', this.#settings.logger)
  }

  /** The previous main process may have had more workers. */
  #addPredecessorSlots(): void {
    for (let index = this.#count; index < MOST_WORKERS; index++)
      if (this.#services?.get(slotOf(this.#settings.service, index))) this.#addSlots(index)
  }

  #addSlots(last: number): void {
    const standing = (name: string) => this.#services?.get(name)?.operations.standing ?? null
    const deps: WorkerSlotDeps = {
      settings: this.#settings,
      ownership: this.#ownership,
      isPaused: () => this.#services?.paused ?? false,
      standing,
      note: (slot, type, facts) => this.#services?.get(slot)?.operations.note(type, facts),
      cancelHandoff: (slot, reason) => this.#services?.get(slot)?.operations.cancelHandoff(reason) ?? 'idle',
    }
    for (let index = this.#slots.length; index <= last; index++) this.#slots.push(new WorkerSlot(index, deps))
  }
}

function hungError({ name, owner }: WorkerSlot): FdbError {
  const why = `${name} (pid ${owner?.pid ?? 0}) hangs, and has not read its configuration again: retry when it has been replaced`
  return new FdbError('ERR_FDB_BUSY', why, { retryable: true })
}

function notBackError({ missing, name }: WorkerSlot, timeoutMs: number): FdbError {
  const pids = missing.map(({ pid }) => pid)
  const why = `${name}: process ${pids.join(', ')} of the previous main process has not reconnected within ${timeoutMs} ms: it hangs; end it, then its successor starts`
  return new FdbError('ERR_FDB_DEADLINE', why, { details: { pids } })
}
