import { OperatorClient } from '../../src/operator/client.js'
import * as operators from '../orders/operators.js'
import { type Census, differences, isListened } from './descriptor-census.js'
import type { DrawnReleases } from './drawn-releases.js'
import { OrderLedger } from './given-orders.js'
import { hasEnded, signalPid } from './launch.js'
import type { OpenLoop } from './open-loop.js'
import { randomFrom } from './random.js'
import { pause, until } from './until.js'

/** Descriptors and timers of what is over are gone within this time. */
const LEFT_MS = 6_000
/** A service in which nothing happens has the same descriptors for this time. */
const SETTLED_MS = 100
const PAUSE_MS = 120
export const CALM_MS = 25_000
/** The effect of an order is there within this time. */
export const EFFECT_MS = 5_000

/** The sandbox of a service's processes. */
interface Box {
  readonly output: string
  processes(): string[]
  close(): Promise<void>
}

/** Each order as often as its share says. */
export function inShares<Order extends string>(shares: Readonly<Record<Order, number>>): Order[] {
  return Object.entries<number>(shares).flatMap(([order, share]) =>
    Array.from({ length: share }, () => order as Order),
  )
}

/** Random orders to a service, drawn from a seed, and clients at a fixed rate whose requests must all be answered. */
export abstract class DrawnOrders<
  Order extends string = string,
  Status = unknown,
  When extends string = string,
> {
  readonly ledger = new OrderLedger()
  /** The output of all processes. */
  output = ''
  protected readonly below: (n: number) => number
  protected clients: OpenLoop | null = null
  /** End the causes of an end of the service. */
  protected ended: ((at?: number) => void)[] = []
  /** The processes that served when the service or they were ordered to end. */
  protected readonly leaving = new Set<number>()

  constructor(seed: number) {
    this.below = randomFrom(seed)
  }

  protected abstract get control(): string
  protected abstract get port(): number
  protected abstract get box(): Box
  protected abstract prepare(): Promise<void>
  /** Gives that many orders, and judges. */
  protected abstract perform(count: number): Promise<void>
  protected abstract census(): Promise<Census>
  protected abstract readonly releases: DrawnReleases
  /** Null if no process answers. */
  protected abstract status(): Promise<Status | null>
  /** Waits for a phase, if it comes soon. `calm`: nothing is under way. */
  protected abstract reach(when: When): Promise<void>
  protected abstract give(order: Order): void | Promise<void>
  /** Waits for what an order alone brings about, if that is known. `before`: the status before the order, when all was calm. */
  protected abstract promised(order: Order, before: Status): Promise<void>
  /** A service manager starts the service again if no process lives. `waits`: also if the last one is just ending. */
  protected abstract maintain(waits: boolean): Promise<void>
  protected async close(): Promise<void> {}

  protected async giveOrders(
    count: number,
    orders: readonly Order[],
    phases: readonly When[],
  ): Promise<void> {
    for (let n = 0; n < count; n++) {
      await this.reach(this.draw(phases))
      const order = this.draw(orders)
      const before = this.ledger.isCalm ? await this.status() : null
      await this.give(order)
      const more = this.below(6)
      if (before !== null && more > 1) await this.promised(order, before)
      // Two at once: the same one, or another one.
      if (more === 0) await this.give(order)
      if (more === 1) await this.give(this.draw(orders))
      this.releases.openGates()
      await this.maintain(this.below(3) > 0)
    }
  }

  /** Resolves with what is wrong. */
  async run(count: number): Promise<string[]> {
    await this.prepare()
    try {
      await this.perform(count)
    } catch (error) {
      this.ledger.wrong.push(String(error))
    } finally {
      this.clients?.close()
      this.output = this.box.output
      await this.box.close()
      await this.close()
    }
    return this.ledger.wrong
  }

  protected draw<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!
  }

  protected soon(): Promise<void> {
    return pause(this.below(PAUSE_MS))
  }

  /** Gives orders one after the other when all is calm, half of them in a probation: each has its full effect. */
  protected async giveAlone(count: number, orders: readonly Order[], calm: When): Promise<void> {
    for (let n = 0; n < count; n++) {
      await this.reach(calm)
      if (this.below(2) === 0) await operators.upgrade(this.control).catch(() => {})
      const order = this.draw(orders)
      const before = this.ledger.isCalm ? await this.status() : null
      await this.give(order)
      if (before !== null) await this.promised(order, before)
      this.releases.openGates(true)
      await this.maintain(true)
    }
  }

  /** The service, or the process `leaving`, may end, until the service serves again. */
  protected ends(why: string, leaving: number | null): (at?: number) => void {
    const over = this.ledger.begin(why)
    this.ended.push(over)
    if (leaving !== null) this.leaving.add(leaving)
    return over
  }

  protected servesAgain(): void {
    for (const over of this.ended.splice(0)) over()
    this.leaving.clear()
  }

  /** `stop --drain` has a time that is shorter than some requests. */
  protected stop(order: 'stop' | 'stop --drain', serving: number | null): void {
    const over = this.ends(order, serving)
    this.ledger.give(order, () =>
      operators.stop(this.control, order === 'stop' ? null : 700).catch(error => {
        // No process has heard it.
        if (error.code === 'ERR_FDB_NO_HOLDER') this.ended = this.ended.filter(each => each !== over)
        throw error
      }),
    )
  }

  /** An upgrade whose command gets Ctrl-C. */
  protected async cancelled(): Promise<void> {
    const over = this.ledger.begin('cancel')
    const cancel = new AbortController()
    setTimeout(() => cancel.abort(), this.below(400)).unref()
    try {
      using client = await OperatorClient.connect(this.control)
      await client.upgrade({ timeout: operators.ANSWER_MS, signal: cancel.signal })
    } catch (error) {
      if ((error as Error).name !== 'AbortError' || !cancel.signal.aborted) throw error
    } finally {
      setTimeout(over, 1_000).unref()
    }
  }

  /** Kills a process. The requests that it has are cut. `why`: what this does to orders, for `ms`. */
  protected kill(why: string, pid: number, ms: number): void {
    this.ledger.note(`${why}: SIGKILL to ${pid}`)
    setTimeout(this.ledger.begin(why), ms).unref()
    this.cuts(pid)
    signalPid(pid, 'SIGKILL')
  }

  /** A process ends, and cuts the requests that it has. */
  protected cuts(pid: number): void {
    const over = this.ledger.begin('killed')
    void until('it has ended', () => hasEnded(pid)).then(
      () => over(),
      () => over(),
    )
  }

  /** The census of a service in which nothing happens. Connections to other servers may be kept for `keptMs`. */
  protected async settled(keptMs = 0): Promise<Census> {
    await pause(2 * keptMs)
    let last = await this.census()
    return await until('nothing changes', async () => {
      const before = last
      await pause(SETTLED_MS)
      last = await this.census()
      return differences(before, last).length === 0 ? last : null
    })
  }

  /** After all orders nothing is left. `isLeft` may overlook a difference. */
  protected async judgeLeft(fresh: Census, isLeft: (text: string) => boolean): Promise<void> {
    let differing: string[] = []
    const isFresh = async () => {
      differing = differences(fresh, await this.census()).filter(isLeft)
      return differing.length === 0
    }
    await until('nothing is left', isFresh, LEFT_MS, () => differing).catch(error =>
      this.ledger.wrong.push(`after all: ${error.message}`),
    )
  }

  /** One more upgrade when all is calm. */
  protected async judgeUpgrade(): Promise<void> {
    const last = this.ledger.give('upgrade', () => operators.upgrade(this.control))
    await until('the last upgrade has its answer', () => last.answer, CALM_MS)
    if (last.answer !== 'done') this.ledger.wrong.push(`the last upgrade: ${last.answer} ${last.message}`)
  }

  /** Stops the service: all its processes end. `files`: its files that are left but may not be. */
  protected async judgeEnd(files: () => string[]): Promise<void> {
    const { wrong } = this.ledger
    await operators.stop(this.control)
    await until('all processes end', () => this.box.processes().length === 0).catch(() =>
      wrong.push(`after the end: ${this.box.processes().join('\n')}`),
    )
    if (isListened(this.port)) wrong.push('after the end: the port is listened on')
    const left = files()
    if (left.length > 0) wrong.push(`after the end: ${left}`)
  }

  protected judgeLog(): void {
    if (/^Node\.js v\d|ERR_FDB_INTERNAL/m.test(this.box.output))
      this.ledger.wrong.push('an exception ended a process')
  }
}
