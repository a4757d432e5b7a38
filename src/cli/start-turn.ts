import { FdbError } from '../errors.js'
import type { OwnedFd } from '../kernel/index.js'
import { dropQueries, reserve } from '../os/reservation.js'
import { pollUntil } from './ask-service.js'

/** How often the turn answers the starts that wait for it. Each of them asks five times in this time; 128 may ask. */
const ANSWER_MS = 250

class Turn implements Disposable {
  readonly #reservation: OwnedFd
  readonly #timer: NodeJS.Timeout

  constructor(reservation: OwnedFd) {
    this.#reservation = reservation
    this.#timer = setInterval(() => dropQueries(reservation), ANSWER_MS).unref()
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer)
    this.#reservation.close()
  }
}

/**
 * Waits until no other `fd-broker start` of this service is under way: two first versions that start at once would bind the same addresses, but
 * the second start is an upgrade. Resolves with the turn, which ends when it is closed or this process ends; with null if the machine cannot
 * reserve a turn. Calls `waits` if there is another start. Throws ERR_FDB_BUSY if it is still under way at `until`.
 */
export async function startTurn(
  control: string,
  until: number,
  waits: () => void,
): Promise<Disposable | null> {
  const attempt = async () => {
    const turn = reserve(`${control}.start`)
    return turn === 'taken' ? null : { turn: turn && new Turn(turn) }
  }
  let turn = await attempt()
  if (turn === null) {
    waits()
    turn = await pollUntil(until, attempt)
  }
  if (turn !== null) return turn.turn
  throw new FdbError(
    'ERR_FDB_BUSY',
    'another fd-broker start of this service is still under way: try again later',
  )
}
