import type { Member } from '../../../src/member/member.js'
import type { TicketKeys } from '../../../src/tls/ticket-keys.js'
import type { Code } from '../globals.js'
import type { SimulatedProcess } from '../process.js'

const ROTATE_MS = 1_500
const LEAST_PAUSE_MS = 50
const MOST_PAUSE_MS = 400

/** The TLS ticket keys of a service, which its versions rotate: each new ones must open the tickets of the last ones that were acknowledged. */
export class Tickets {
  /** The keys that were used, by their bytes, in their order. */
  readonly #numbers = new Map<string, number>()
  /** The number of the last keys that a rotation has acknowledged. */
  #taken = 0
  /** Rotations that lost sessions. */
  readonly wrong: string[] = []

  /** A version has begun without the state of earlier ones. */
  startAgain(): void {
    this.#taken = 0
  }

  /** Shares the keys of the service, before `ready()`. */
  share(code: Code, p: SimulatedProcess, member: Member): TicketKeys {
    const keys = new code.TicketKeys(member, { rotateEvery: ROTATE_MS })
    // The first keys of a service have none before them, and count when they are in the state.
    if (keys.previous !== null) this.#see(p, keys)
    keys.onChange(() => this.#see(p, keys))
    return keys
  }

  /** Rotates the keys while the version serves. Ends with its process. */
  async repeat(p: SimulatedProcess, member: Member, keys: TicketKeys): Promise<void> {
    for (;;) {
      await new Promise<void>(resolve =>
        p.setTimer(resolve, LEAST_PAUSE_MS + p.world.below(MOST_PAUSE_MS - LEAST_PAUSE_MS)),
      )
      if (member.phase === 'leaving' || member.phase === 'gone') return
      if (member.phase === 'serving') await this.#rotate(p, keys)
    }
  }

  async #rotate(p: SimulatedProcess, keys: TicketKeys): Promise<void> {
    try {
      await keys.rotate()
      this.#taken = Math.max(this.#taken, this.#numberOf(keys.current))
      p.world.note(p, `has rotated the ticket keys to ${this.#numberOf(keys.current)}`)
    } catch (error) {
      p.world.note(p, `the ticket keys were not rotated: ${(error as { code?: string }).code}`)
    }
  }

  #see(p: SimulatedProcess, { current, previous }: TicketKeys): void {
    if (this.#numberOf(current) > 0) return
    const before = previous === null ? 0 : this.#numberOf(previous)
    this.#numbers.set(current.toString('hex'), this.#numbers.size + 1)
    if (before < this.#taken)
      this.wrong.push(
        `${p.name} has new ticket keys that open tickets of ${before}, and ${this.#taken} were in use`,
      )
  }

  /** Returns 0 for keys that were not seen in the state. */
  #numberOf(keys: Buffer): number {
    return this.#numbers.get(keys.toString('hex')) ?? 0
  }
}
