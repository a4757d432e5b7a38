import { closeAll, MAX_FDS_PER_MESSAGE, type OwnedFd } from '../kernel/index.js'
import type { fdbroker } from '../proto/wire.js'
import type { TurnWork } from './counts.js'
import { type Departure, MAX_CONNECTION_FDS, type MovableConnections, type Witness } from './movable.js'

export type WireMoving = fdbroker.wire.Moving.$Properties

/** A slice is full when its records have this many bytes. */
const SLICE_BYTES = 1024 * 1024

export interface Source {
  readonly listener: string
  /** The listener's address, by which another version finds the connection's server if it has the listener under another name. */
  readonly address: string
  readonly moving: MovableConnections
}

/** Returns the number of connections that may leave, now or later. */
export function countMovable(sources: Iterable<Source>): number {
  let sum = 0
  for (const { moving } of sources) sum += moving.movable
  return sum
}

export interface Item {
  readonly source: Source
  readonly departure: Departure
}

/** See {@link MovableConnections.kindOf}. */
export function kindOf({ source: { moving }, departure }: Item): string {
  return moving.kindOf?.(departure) ?? moving.protocol.split('/', 1)[0]!
}

/** Collects leaving connections for one slice. */
export class SliceFiller {
  readonly items: Item[] = []
  #fds = 0
  #bytes = 0

  get isFull(): boolean {
    return this.#bytes >= SLICE_BYTES || this.#fds + MAX_CONNECTION_FDS > MAX_FDS_PER_MESSAGE
  }

  add(item: Item): void {
    this.items.push(item)
    this.#fds += item.departure.fds.length
    this.#bytes += item.departure.record.length
  }
}

/** Calls `each` for all items: at least one per turn of the event loop, and more until the turn's time for moves is used up. Resolves after the call for the last item. */
export function runInTurns<T>(items: readonly T[], work: TurnWork, each: (item: T) => void): Promise<void> {
  return new Promise(resolve => {
    let at = 0
    const turn = () => {
      const isUsedUp = work.budget()
      while (at < items.length) {
        each(items[at++]!)
        if (at < items.length && isUsedUp()) {
          setImmediate(() => work.run(turn))
          return
        }
      }
      resolve()
    }
    work.run(turn)
  })
}

export function fdsOf(items: readonly Item[]): OwnedFd[] {
  return items.flatMap(({ departure }) => departure.fds)
}

export function closeItems(items: readonly Item[]): void {
  closeAll(fdsOf(items))
}

/** The first wave has this part of each server's movable connections, but at least {@link LEAST} connections. */
const PART = 0.01
const LEAST = 8
/** The remaining connections follow after this time even without a response, because some responses take long. */
export const LONGEST_PROOF_MS = 5_000
const PROOF_CHECK_MS = 25

/** Limits how many connections of each server leave before the receiver has shown that it can serve them. */
export class FirstWave {
  readonly #remaining = new Map<MovableConnections, number>()
  sent = 0

  mayLeave(moving: MovableConnections): boolean {
    return this.#remainingOf(moving) > 0
  }

  count(moving: MovableConnections): void {
    this.#remaining.set(moving, this.#remainingOf(moving) - 1)
    this.sent++
  }

  #remainingOf(moving: MovableConnections): number {
    let remaining = this.#remaining.get(moving)
    if (remaining === undefined) {
      remaining = Math.max(LEAST, Math.ceil(moving.movable * PART))
      this.#remaining.set(moving, remaining)
    }
    return remaining
  }
}

/**
 * Waits for `healthyMs`, then until this process has answered on one of the connections, no client has asked anything, `over` returns true, or
 * {@link LONGEST_PROOF_MS} have passed. Resolves with the numbers of connections on which a client has asked and on which this process has answered.
 */
export async function waitForProof(
  witnesses: readonly Witness[],
  healthyMs: number,
  over: () => boolean,
): Promise<{ asked: number; answered: number }> {
  const startedAt = performance.now()
  await pause(healthyMs)
  for (;;) {
    const asked = witnesses.filter(witness => witness.asked).length
    const answered = witnesses.filter(witness => witness.answered).length
    const late = performance.now() - startedAt >= healthyMs + LONGEST_PROOF_MS
    if (asked === 0 || answered > 0 || late || over()) return { asked, answered }
    await pause(PROOF_CHECK_MS)
  }
}

function pause(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms).unref())
}

export function toWire({ listener, address, moving }: Source, { record, fds }: Departure): WireMoving {
  return { listener, address, protocol: moving.protocol, record, fds: fds.length }
}
