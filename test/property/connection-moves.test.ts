import { describe, expect, it } from 'vitest'
import type { Arrival, Witness } from '../../src/connections/movable.js'
import { native } from '../../src/kernel/native.js'
import { moveBetween } from '../connections-support/move-between.js'
import { type PairConnection, SocketPairs } from '../connections-support/socket-pairs.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

interface Round {
  /** Sends, and receives. */
  readonly from: number
  readonly to: number
  /** Turns of the event loop until one of them stops. */
  readonly turns: number
  readonly stops: 'sender' | 'receiver'
  /** The receiver refuses each connection whose number is a multiple of it; 0: none. */
  readonly refuses: number
}

const PROCESSES = 3
const ROUND: fc.Arbitrary<Round> = fc.record({
  from: fc.nat(PROCESSES - 1),
  to: fc.nat(PROCESSES - 1),
  turns: fc.integer({ min: 0, max: 25 }),
  stops: fc.constantFrom('sender', 'receiver'),
  refuses: fc.constantFrom(0, 0, 0, 7),
})

/** As the proxy, tells the sender at once of a connection that has come back. */
class Process extends SocketPairs {
  override arrive(value: PairConnection, how: Arrival): Witness {
    const witness = super.arrive(value, how)
    this.onMovable?.()
    return witness
  }

  get names(): string[] {
    return [...this.here.keys(), ...this.staying.keys()]
  }
}

/** Sends over a channel until one of both stops, and its end has reached the other. */
async function move(old: Process, young: Process, { turns, stops, refuses }: Round): Promise<void> {
  young.refuses = name => refuses > 0 && Number(name.slice(1)) % refuses === 0
  const { sender, receiver, given, taken, ended } = moveBetween([old], young)
  receiver.start()
  sender.start()
  for (let n = 0; n < turns; n++) await new Promise(resolve => setImmediate(resolve))
  const [stopping, process] = stops === 'sender' ? [sender, old] : [receiver, young]
  await stopping.stop()
  const { names } = process
  await ended
  // Nothing comes to a process, or back to it, that has waited for its end of the channel to stop: it may have ended.
  expect(process.names).toEqual(names)
  expect([given.report.lost, taken.report.lost]).toEqual([0, 0])
}

describe('connections that move between three processes', () => {
  it('stand in exactly one of them each, whenever a sender or a receiver stops', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 120 }),
        fc.array(ROUND, { minLength: 1, maxLength: 6 }),
        async (count, rounds) => {
          const open = native.openCount()
          const processes = Array.from({ length: PROCESSES }, () => new Process())
          const peers = processes[0]!.fill(count)
          for (const round of rounds) {
            if (round.from === round.to) continue
            await move(processes[round.from]!, processes[round.to]!, round)
            const names = processes.flatMap(each => each.names)
            expect(names.length).toBe(count)
            expect(new Set(names).size).toBe(count)
          }
          for (const { here, staying } of processes)
            for (const fd of [...here.values(), ...staying.values()]) fd.close()
          for (const fd of peers) fd.close()
          expect(native.openCount()).toBe(open)
        },
      ),
      { numRuns: perLane(50, 2_000) },
    )
  })
})
