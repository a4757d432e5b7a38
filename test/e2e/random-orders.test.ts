import { expect, it } from 'vitest'
import { FRESH, perLane } from '../lanes/lane.js'
import { RandomOrders } from '../processes/random-orders.js'

const FIRST = Number(process.env.FDB_ORDERS_SEED ?? (FRESH ? Date.now() % 1_000_000 : 1))
const SEEDS = Number(process.env.FDB_ORDERS_SEEDS ?? perLane(1, 150))
const ACTS = Number(process.env.FDB_ORDERS_ACTS ?? perLane(6, 20))

it(`a program answers each request through random orders: ${SEEDS} seeds of ${ACTS} acts from FDB_ORDERS_SEED=${FIRST}`, {
  // Twenty acts with deadlines of their own, on a busy machine.
  timeout: 30_000 + SEEDS * 240_000,
}, async () => {
  const found: string[] = []
  for (let seed = FIRST; seed < FIRST + SEEDS; seed++) {
    const orders = new RandomOrders(seed, seed % 2 === 0 ? 'embedded' : 'daemon')
    const wrong = await orders.run(ACTS).catch(error => [String(error)])
    if (wrong.length > 0)
      found.push(`seed ${seed}:\n${[...wrong, ...orders.story, orders.output].join('\n')}`)
  }
  expect(found.join('\n\n')).toBe('')
})
