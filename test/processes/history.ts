import { expect } from 'vitest'
import type { App } from './app.js'
import { pause } from './until.js'

/** The sum of all accounts, at any time. */
export const TOTAL = 1_000_000

/** A process's reading of the state. */
export interface Reading {
  readonly count: number
  readonly list: readonly string[]
  readonly accounts: readonly [number, number]
  readonly transfers: Readonly<Record<string, number>>
}

/** A change as its client saw it; times as of performance.now(). */
export interface Operation {
  readonly kind: 'count' | 'append' | 'transfer'
  readonly id: string
  readonly amount: number
  readonly invoked: number
  /** Infinity: it is not known whether it was made. */
  returned: number
  /** The result of an acknowledged operation. */
  result: unknown
  outcome: 'acknowledged' | 'refused' | 'unknown'
}

/** Errors that leave open whether the change was made; any other one says that it was not. */
const OPEN: ReadonlySet<string> = new Set([
  'ERR_FDB_DEADLINE',
  'ECONNRESET',
  'ECONNREFUSED',
  'EPIPE',
  'ENOENT',
])
const KINDS = ['count', 'append', 'transfer'] as const

/** Clients that change the state of a service, and what they saw. `process`: where the next change is made. */
export class History {
  readonly operations: Operation[] = []
  readonly readings: Reading[] = []
  /** Errors that refused a change, by code. */
  readonly refusals = new Map<string, number>()
  readonly #process: () => App
  readonly #done: Promise<unknown>
  #running = true

  constructor(clients: number, random: (below: number) => number, process: () => App) {
    this.#process = process
    this.#done = Promise.all(Array.from({ length: clients }, (_, client) => this.#run(client, random)))
  }

  async stop(): Promise<void> {
    this.#running = false
    await this.#done
  }

  check(last: Reading): void {
    checkHistory(this.operations, this.readings, last)
  }

  get acknowledged(): Operation[] {
    return this.operations.filter(({ outcome }) => outcome === 'acknowledged')
  }

  async #run(client: number, random: (below: number) => number): Promise<void> {
    for (let n = 0; this.#running; n++) {
      if (random(10) === 0) await this.#read()
      const kind = KINDS[random(KINDS.length)]!
      await this.#change({ kind, id: `${client}-${n}`, amount: 1 + random(5) }, random(2) === 0)
      await pause(random(4))
    }
  }

  async #read(): Promise<void> {
    const reading = await this.#process()
      .order<Reading>('read')
      .catch(() => null)
    if (reading !== null) this.readings.push(reading)
  }

  /** `tries`: until it is known, under the same id. */
  async #change(what: Pick<Operation, 'kind' | 'id' | 'amount'>, tries: boolean): Promise<void> {
    const operation: Operation = {
      ...what,
      invoked: performance.now(),
      returned: Number.POSITIVE_INFINITY,
      result: null,
      outcome: 'unknown',
    }
    this.operations.push(operation)
    for (let attempt = 0; ; attempt++) {
      try {
        const { kind, id, amount } = what
        operation.result = await this.#process().order(kind, { id, amount, request: `r-${id}` })
        // The result of an earlier attempt is unknown.
        if (attempt > 0) operation.result = null
        operation.returned = performance.now()
        operation.outcome = 'acknowledged'
        return
      } catch (error) {
        const { code = 'none' } = error as { code?: string }
        if (!OPEN.has(code)) {
          this.refusals.set(code, (this.refusals.get(code) ?? 0) + 1)
          if (attempt === 0) operation.outcome = 'refused'
          return
        }
        if (!tries || !this.#running) return
        await pause(20)
      }
    }
  }
}

/** Compares all that was seen with the state at last. Throws what is not linearizable, with the operations that show it. */
export function checkHistory(
  operations: readonly Operation[],
  readings: readonly Reading[],
  last: Reading,
): void {
  const of = (kind: Operation['kind'], outcome: Operation['outcome']) =>
    operations.filter(each => each.kind === kind && each.outcome === outcome)
  checkList(of('append', 'acknowledged'), of('append', 'refused'), last)
  checkCounter(of('count', 'acknowledged'), of('count', 'unknown').length, last)
  checkTransfers(of('transfer', 'acknowledged'), of('transfer', 'refused'), last)
  for (const { list, accounts, transfers } of [...readings, last]) {
    expect(isPrefix(list, last.list), 'a list that was read begins the last one').toBe(true)
    expect(accounts[0] + accounts[1], 'the accounts together').toBe(TOTAL)
    const moved = Object.values(transfers).reduce((sum, amount) => sum + amount, 0)
    expect(moved, 'what was moved is what the transfers say').toBe(accounts[1])
  }
}

function checkList(
  acknowledged: readonly Operation[],
  refused: readonly Operation[],
  { list }: Reading,
): void {
  expect(new Set(list).size, 'each is appended once').toBe(list.length)
  const there = new Map(list.map((id, i) => [id, i]))
  expect(
    acknowledged.filter(({ id }) => !there.has(id)),
    'acknowledged, and lost',
  ).toEqual([])
  expect(
    refused.filter(({ id }) => there.has(id)),
    'refused, and made',
  ).toEqual([])
  for (const { id, result } of acknowledged) {
    if (result === null) continue
    expect(isPrefix(result as string[], list), `what ${id} has appended to begins the last list`).toBe(true)
    expect((result as string[]).at(-1)).toBe(id)
  }
  checkTime(acknowledged, ({ id }) => there.get(id)!)
}

function checkCounter(acknowledged: readonly Operation[], open: number, { count }: Reading): void {
  expect(count, 'acknowledged, and lost').toBeGreaterThanOrEqual(acknowledged.length)
  expect(count, 'counted twice').toBeLessThanOrEqual(acknowledged.length + open)
  const known = acknowledged.filter(({ result }) => result !== null)
  expect(new Set(known.map(({ result }) => result)).size, 'no number is counted twice').toBe(known.length)
  checkTime(known, ({ result }) => result as number)
}

function checkTransfers(
  acknowledged: readonly Operation[],
  refused: readonly Operation[],
  { transfers }: Reading,
): void {
  const there = ({ id }: Operation) => transfers[id] !== undefined
  expect(
    acknowledged.filter(each => !there(each)),
    'acknowledged, and lost',
  ).toEqual([])
  expect(refused.filter(there), 'refused, and made').toEqual([])
}

function isPrefix(some: readonly string[], all: readonly string[]): boolean {
  return some.length <= all.length && some.every((id, i) => id === all[i])
}

/** One that was acknowledged before another was begun stands before it. */
function checkTime(operations: readonly Operation[], place: (operation: Operation) => number): void {
  const sorted = [...operations].sort((a, b) => place(a) - place(b))
  let ended = Number.POSITIVE_INFINITY
  for (const { id, invoked, returned } of sorted.reverse()) {
    expect(invoked, `${id} stands before what had ended when it was begun`).toBeLessThanOrEqual(ended)
    ended = Math.min(ended, returned)
  }
}
