/**
 * The real `EffectQueue`, which carries out the effects of one process. A state of the world has only the list of the effects that
 * are not over; a queue is filled with them, makes one move, and is emptied again. The move depends on nothing else, so that each
 * move is computed once.
 */
import type { Outcome } from '../../src/handoff/effect-queue.js'
import type { Interner, Lists } from './interning.js'
import type { Parts } from './parts.js'

interface Item<Effect> {
  readonly id: number
  readonly effect: Effect
  /** Effects of one step have the same. */
  readonly step: number
}

export interface Told {
  /** The outcome of the first effect. */
  readonly outcome: 'done' | 'failed' | 'nothing'
  /** The fault of a queue. */
  readonly wrong: string | null
}

/** Stands for the promise of an effect that takes time: it is settled in the turn in which the exploration wants that. */
class Turn {
  #done = (): void => {}
  #failed = (_error: unknown): void => {}
  #next = (): void => {}

  // biome-ignore lint/suspicious/noThenProperty: the queue waits for it as for a promise
  then(done: () => void, failed: (error: unknown) => void): { then: (next: () => void) => void } {
    this.#done = done
    this.#failed = failed
    return {
      // biome-ignore lint/suspicious/noThenProperty: as above
      then: next => {
        this.#next = next
      },
    }
  }
  settle(done: boolean): void {
    if (done) this.#done()
    else this.#failed(new Error('the effect failed'))
    this.#next()
  }
}

const FAILED = new Error('the effect failed')

export class Queue<Effect> {
  readonly #lists: Lists
  readonly #effects: Interner<Effect>
  /** Between the effects of two steps. */
  readonly #border: number
  readonly #make: Parts['queue']
  readonly #needs: (failed: Effect, later: Effect) => boolean
  readonly #told = new Map<number, Told>()
  readonly #left = new Map<number, number>()
  readonly #pushed = new Map<number, number>()

  constructor(parts: {
    lists: Lists
    effects: Interner<Effect>
    border: number
    make: Parts['queue']
    needs: (failed: Effect, later: Effect) => boolean
  }) {
    this.#lists = parts.lists
    this.#effects = parts.effects
    this.#border = parts.border
    this.#make = parts.make
    this.#needs = parts.needs
  }

  /** `effects` of another step come while the first of `list` is under way. */
  push(list: number, effects: number): number {
    if (list === 0) return effects
    const key = list * 0x1_0000 + effects
    let left = this.#pushed.get(key)
    if (left === undefined) {
      const run = new Run(this.#make, this.#needs)
      run.begin(this.#steps(list), true)
      run.push(this.#steps(effects, 1_000)[0]!)
      left = this.#listOf(run.empty())
      this.#pushed.set(key, left)
    }
    return left
  }

  /** The first effect of `list` is carried out, or fails: what is told of it. `slow`: it took time. */
  told(list: number, done: boolean, slow: boolean): Told {
    const key = list * 4 + (done ? 2 : 0) + (slow ? 1 : 0)
    let told = this.#told.get(key)
    if (told === undefined) {
      const run = new Run(this.#make, this.#needs)
      run.begin(this.#steps(list), slow, done)
      if (slow) run.settle(done)
      told = { outcome: run.outcome, wrong: run.wrong }
      this.#told.set(key, told)
    }
    return told
  }

  /** The effects that are not over then. `more`: the machine's next effects after it is told. */
  after(list: number, done: boolean, slow: boolean, more: number): number {
    const key = ((list * 0x1_0000 + more) * 2 + (done ? 1 : 0)) * 2 + (slow ? 1 : 0)
    let left = this.#left.get(key)
    if (left === undefined) {
      const run = new Run(this.#make, this.#needs)
      if (more !== 0) run.more = this.#steps(more, 1_000)[0]!
      run.begin(this.#steps(list), slow, done)
      if (slow) run.settle(done)
      left = this.#listOf(run.empty())
      this.#left.set(key, left)
    }
    return left
  }

  #steps(list: number, first = 0): Item<Effect>[][] {
    const steps: Item<Effect>[][] = [[]]
    for (const id of this.#lists.items(list)) {
      if (id === this.#border) steps.push([])
      else steps.at(-1)!.push({ id, effect: this.#effects.value(id), step: first + steps.length })
    }
    return steps
  }
  #listOf(items: readonly Item<Effect>[]): number {
    const ids: number[] = []
    items.forEach(({ id, step }, i) => {
      if (i > 0 && items[i - 1]!.step !== step) ids.push(this.#border)
      ids.push(id)
    })
    return this.#lists.of(ids)
  }
}

/** One move of a queue. */
class Run<Effect> {
  outcome: Told['outcome'] = 'nothing'
  wrong: string | null = null
  more: readonly Item<Effect>[] = []
  readonly #queue: Pick<InstanceType<Parts['queue']>, 'push'>
  /** Begun, and not over. */
  #turn: Turn | null = null
  #first: Item<Effect> | null = null
  #step: 'filling' | 'first' | 'told' | 'emptying' = 'filling'
  #quick = false
  #done = true
  readonly #left: Item<Effect>[] = []

  constructor(make: Parts['queue'], needs: (failed: Effect, later: Effect) => boolean) {
    this.#queue = new make<Item<Effect> | null>({
      perform: item => this.#perform(item) as void | Promise<void>,
      outcome: (item, outcome) => this.#outcome(item, outcome),
      needs: (failed, later) => failed !== null && later !== null && needs(failed.effect, later.effect),
    })
  }

  /** Fills the queue, the first effect of which is under way (`slow`), or is carried out at once. */
  begin(steps: readonly (readonly Item<Effect>[])[], slow: boolean, done = true): void {
    this.#first = steps[0]![0]!
    this.#quick = !slow
    this.#done = done
    // Before the first there is another, so that all are there when the first begins.
    if (!slow) this.#queue.push([null])
    for (const step of steps) this.#queue.push(step)
    if (slow) this.#step = 'first'
    else this.settle(true)
  }

  push(items: readonly Item<Effect>[]): void {
    this.#queue.push(items)
  }

  settle(done: boolean): void {
    const turn = this.#turn
    this.#turn = null
    turn?.settle(done)
  }

  /** All that is not over, the first of it under way. */
  empty(): readonly Item<Effect>[] {
    const under = this.#step === 'first' && !this.#quick ? [this.#first!] : []
    this.#step = 'emptying'
    while (this.#turn !== null) this.settle(true)
    return [...under, ...this.#left]
  }

  #perform(item: Item<Effect> | null): Turn | undefined {
    if (this.#turn !== null && this.wrong === null) this.wrong = 'an effect begins before another is over'
    if (item === null) {
      this.#turn = new Turn()
      return this.#turn
    }
    if (item === this.#first) {
      if (this.#quick) {
        this.#step = 'first'
        if (!this.#done) throw FAILED
        return undefined
      }
    } else {
      if (this.#step === 'first' && this.wrong === null)
        this.wrong = 'an effect begins before what has come of another is told'
      this.#left.push(item)
    }
    this.#turn = new Turn()
    return this.#turn
  }

  #outcome(item: Item<Effect> | null, outcome: Outcome): void {
    if (this.#step !== 'first' || item !== this.#first) return
    this.#step = 'told'
    this.outcome = outcome.done ? 'done' : 'failed'
    if (this.more.length > 0) this.#queue.push(this.more)
  }
}
