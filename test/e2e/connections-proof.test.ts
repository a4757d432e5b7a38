import { expect, it } from 'vitest'
import { type ClientsOf, prove } from '../../bench/connections/prove.mjs'
import { perLane } from '../lanes/lane.js'

/** `npm run soak -- connections` is the same in full size. */
const MB = 1_000_000
const TEN = perLane(6, 30)
const BYTES = perLane(1, 5) * MB

it('notices nothing of upgrades, whatever a client is doing', async () => {
  const proof = await prove({
    clients: [
      ...perLane<ClientsOf[]>(
        [],
        [
          { kind: 'idle', count: 10 * TEN, everyMs: 2_000 },
          { kind: 'tcp', count: TEN, full: 2 },
        ],
      ),
      { kind: 'ws', count: 2 * TEN, full: TEN / 5 },
      { kind: 'slow', count: TEN, ms: 3_000 },
      { kind: 'events', count: TEN, everyMs: 50 },
      { kind: 'upload', count: 3, bytes: BYTES, stallMs: 100 },
      { kind: 'download', count: 3, bytes: BYTES, stallMs: 100 },
    ],
    rate: perLane(40, 200),
    upgrades: perLane(1, 3),
    everyMs: 300,
    quietMs: 500,
  })
  const { clients, backend, plain, upgrades, log } = proof
  const losses = clients.flatMap(({ incidents }) => incidents)
  expect(losses, log).toEqual([])
  for (const { counts } of clients) expect(counts).toMatchObject({ closed: 0, failed: 0, wrong: 0 })
  expect(backend).toMatchObject({ twice: 0, broken: 0, wrong: 0, reasons: [] })
  expect(plain.twice).toBe(0)
  for (const each of upgrades) {
    // Everything that was open, and what the other load had.
    expect(each.moved).toBeGreaterThan(perLane(4, 15) * TEN)
    expect(each).toMatchObject({ refused: 0, lost: 0 })
    // How soon, the soak measures: this machine also runs the clients and other tests.
    expect(each.emptyMs).not.toBeNull()
    expect(each.goneMs).not.toBeNull()
  }
})
