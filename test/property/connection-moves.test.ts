import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MoveCounts } from '../../src/connections/counts.js'
import type { Arrival, Witness } from '../../src/connections/movable.js'
import { movePair } from '../../src/connections/move-channel.js'
import { MoveLog } from '../../src/connections/move-log.js'
import { ConnectionReceiver } from '../../src/connections/receiver.js'
import { ConnectionSender } from '../../src/connections/sender.js'
import { FdbError } from '../../src/errors.js'
import { OwnedFd } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { Channel } from '../../src/wire/channel.js'
import { Link } from '../../src/wire/link.js'
import { type PairConnection, SocketPairs } from '../connections-support/socket-pairs.js'
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
  refuses = 0

  override check(record: Uint8Array, fds: readonly OwnedFd[]): PairConnection {
    const value = super.check(record, fds)
    if (this.refuses === 0 || Number(value.state.slice(1)) % this.refuses !== 0) return value
    throw new FdbError('ERR_FDB_RELAYED_REFUSED', `${value.state} is not wanted`)
  }

  override arrive(value: PairConnection, how: Arrival): Witness {
    const witness = super.arrive(value, how)
    this.onMovable?.()
    return witness
  }

  get names(): string[] {
    return [...this.here.keys(), ...this.staying.keys()]
  }
}

function turn(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve))
}

/** Sends over a channel until one of both stops, and its end has reached the other. */
async function move(old: Process, young: Process, { turns, stops, refuses }: Round): Promise<void> {
  young.refuses = refuses
  const { give, take, log } = movePair()
  const theirs = MoveLog.open(log.fd.dup())
  const counts = new MoveCounts()
  // A side may report that the other has not read everything.
  const common = { counts, reportError() {} }
  let onSent!: () => void
  let onReceived!: () => void
  const ended = [
    new Promise<void>(resolve => (onSent = resolve)),
    new Promise<void>(resolve => (onReceived = resolve)),
  ]
  const sender = new ConnectionSender({
    ...common,
    link: new Link(new Channel(give)),
    log,
    sources: () => [{ listener: 'web', moving: old }],
    which: 'auto',
    perSecond: Number.POSITIVE_INFINITY,
    firstWaveMs: 0,
    onEnded: onSent,
  })
  const receiver = new ConnectionReceiver({
    ...common,
    link: new Link(new Channel(take)),
    log: theirs,
    sender: process.pid,
    target: () => young,
    onEnded: onReceived,
  })
  receiver.start()
  sender.start()
  for (let n = 0; n < turns; n++) await turn()
  if (stops === 'sender') await sender.stop()
  else await receiver.stop()
  await Promise.all(ended)
  expect(counts.report.lost).toBe(0)
}

describe('connections that move between three processes', () => {
  it('are each in exactly one of them, whenever a sender or a receiver stops', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 120 }),
        fc.array(ROUND, { minLength: 1, maxLength: 6 }),
        async (count, rounds) => {
          const open = native.openCount()
          const peers: OwnedFd[] = []
          const processes = Array.from({ length: PROCESSES }, () => new Process())
          for (let i = 0; i < count; i++) {
            const [a, b] = native.socketPair()
            processes[0]!.here.set(`c${i}`, OwnedFd.own(a, `c${i}`))
            peers.push(OwnedFd.own(b, `peer of c${i}`))
          }
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
      { numRuns: perLane(100, 2_000) },
    )
  })
})
