import { ServerSlots, type SlotFile } from '../../src/relay/server-slots.js'
import type { SimulatedClock } from './clock.js'

/** The locks on bytes of the file that all processes have in common. */
export class Slots {
  /** The processes that have locked a byte, and how. */
  readonly #locks = new Map<number, Map<object, 'exclusive' | 'shared'>>()
  readonly #watchers = new Set<() => void>()
  readonly #clock: SimulatedClock
  readonly #bases = new Map<string, number>()

  constructor(clock: SimulatedClock) {
    this.#clock = clock
  }

  /** How many locks there are. */
  get held(): number {
    return [...this.#locks.values()].filter(({ size }) => size > 0).length
  }

  /** The file as one process has it. */
  open(touched: () => void): SlotFile {
    const self = {}
    this.#watchers.add(touched)
    const file = {
      closed: false,
      watched: true,
      of: (server: string) => {
        const base = this.#bases.get(server) ?? this.#bases.size * 2 ** 21
        this.#bases.set(server, base)
        return new ServerSlots(file as unknown as SlotFile, base)
      },
      touch: () => {
        for (const watcher of this.#watchers) this.#clock.after(0.3, watcher)
      },
      lock: (kind: 'exclusive' | 'shared' | 'none', at: number) => this.#lock(self, kind, at),
      locked: (at: number, length = 1) => this.#others(self, at, length),
      share: () => null,
      [Symbol.dispose]: () => {
        file.closed = true
        for (const locks of this.#locks.values()) locks.delete(self)
        this.#watchers.delete(touched)
      },
    }
    return file as unknown as SlotFile
  }

  #lock(self: object, kind: 'exclusive' | 'shared' | 'none', at: number): boolean {
    const locks = this.#locks.get(at) ?? new Map<object, 'exclusive' | 'shared'>()
    this.#locks.set(at, locks)
    if (kind === 'none') return locks.delete(self) || true
    const isFree = [...locks].every(
      ([owner, how]) => owner === self || (kind === 'shared' && how === 'shared'),
    )
    if (isFree) locks.set(self, kind)
    return isFree
  }

  #others(self: object, from: number, length: number): { start: number; end: number } | null {
    const isOf = (at: number) => [...(this.#locks.get(at)?.keys() ?? [])].some(owner => owner !== self)
    for (let at = from; at < from + length; at++) {
      if (!isOf(at)) continue
      let end = at + 1
      while (isOf(end)) end++
      return { start: at, end }
    }
    return null
  }
}
