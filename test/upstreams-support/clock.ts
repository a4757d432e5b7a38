import { type Random, randomOf } from '../simulate/random.js'

interface Timer {
  at: number
  /** Null for a timer that fires once. */
  readonly every: number | null
  readonly act: () => void
  ref(): Timer
  unref(): Timer
}

interface Immediate {
  act: (() => void) | null
}

interface Event {
  readonly at: number
  readonly act: () => void
}

/** A run that has so many turns does not end. */
const MOST_TURNS = 4_000
/** How long a turn takes, in milliseconds. */
const TURN_MS = 0.01

/** The event loop of a run: its timers, clocks, immediates, microtasks and chance. Events come from the network, which a turn polls between timers and immediates. */
export class SimulatedClock {
  /** Milliseconds of `performance.now()`. */
  now = 1_000
  turn = 0
  readonly #random: Random
  readonly #timers = new Set<Timer>()
  #immediates: Immediate[] = []
  #microtasks: (() => void)[] = []
  #events: Event[] = []
  /** Called after each turn. */
  onTurn = () => {}

  constructor(seed: number) {
    this.#random = randomOf(seed)
  }

  /** How many timers and immediates are left. */
  get left(): number {
    return this.#timers.size + this.#immediates.filter(({ act }) => act !== null).length
  }

  /** Calls `act` in the poll of a later turn. */
  after(ms: number, act: () => void): void {
    this.#events.push({ at: this.now + ms, act })
  }

  /** Runs `work` with this clock instead of those of Node. */
  use<T>(work: () => T): T {
    const timer = (act: () => void, ms = 0, every = false) => this.#setTimer(act, ms, every)
    const clear = (timer: unknown) => void this.#timers.delete(timer as Timer)
    const fakes: readonly (readonly [object, PropertyKey, unknown])[] = [
      [globalThis, 'setTimeout', (act: () => void, ms?: number) => timer(act, ms)],
      [globalThis, 'setInterval', (act: () => void, ms?: number) => timer(act, ms, true)],
      [globalThis, 'clearTimeout', clear],
      [globalThis, 'clearInterval', clear],
      [
        globalThis,
        'setImmediate',
        (act: (...args: unknown[]) => void, ...args: unknown[]) => this.#setImmediate(() => act(...args)),
      ],
      [
        globalThis,
        'clearImmediate',
        (immediate: Immediate | undefined) => {
          if (immediate) immediate.act = null
        },
      ],
      [globalThis, 'queueMicrotask', (act: () => void) => void this.#microtasks.push(act)],
      [performance, 'now', () => this.now],
      [Date, 'now', () => 1_700_000_000_000 + Math.floor(this.now)],
      [Math, 'random', this.#random],
    ]
    const real = fakes.map(([of, name]) => Object.getOwnPropertyDescriptor(of, name))
    for (const [of, name, value] of fakes)
      Object.defineProperty(of, name, { value, configurable: true, writable: true })
    try {
      return work()
    } finally {
      for (const [n, [of, name]] of fakes.entries()) {
        const before = real[n]
        if (before === undefined) Reflect.deleteProperty(of, name)
        else Object.defineProperty(of, name, before)
      }
    }
  }

  #setTimer(act: () => void, ms: number, every: boolean): Timer {
    const delay = Math.max(1, Math.floor(ms))
    const timer: Timer = {
      at: this.now + delay,
      every: every ? delay : null,
      act,
      ref: () => timer,
      unref: () => timer,
    }
    this.#timers.add(timer)
    return timer
  }

  #setImmediate(act: () => void): Immediate {
    const immediate = { act }
    this.#immediates.push(immediate)
    return immediate
  }

  /** Runs until this time. */
  runUntil(time: number): void {
    for (;;) {
      const next = this.#immediates.length > 0 ? this.now : this.#next()
      if (next > time) break
      this.now = Math.max(this.now, next)
      this.#runTurn()
    }
    this.now = Math.max(this.now, time)
  }

  #next(): number {
    let next = Number.POSITIVE_INFINITY
    for (const { at } of this.#timers) next = Math.min(next, at)
    for (const { at } of this.#events) next = Math.min(next, at)
    return next
  }

  #runTurn(): void {
    if (++this.turn > MOST_TURNS) throw new Error(`no end after ${this.turn} turns`)
    const due = [...this.#timers].filter(({ at }) => at <= this.now).sort((a, b) => a.at - b.at)
    for (const timer of due) {
      if (!this.#timers.has(timer)) continue
      if (timer.every === null) this.#timers.delete(timer)
      else timer.at = this.now + timer.every
      this.#call(timer.act)
    }
    const events = this.#events.filter(({ at }) => at <= this.now).sort((a, b) => a.at - b.at)
    this.#events = this.#events.filter(({ at }) => at > this.now)
    for (const { act } of events) this.#call(act)
    for (const { act } of this.#immediates.splice(0)) if (act !== null) this.#call(act)
    this.now += TURN_MS
    this.onTurn()
  }

  #call(act: () => void): void {
    act()
    for (let next = this.#microtasks.shift(); next !== undefined; next = this.#microtasks.shift()) next()
  }
}
