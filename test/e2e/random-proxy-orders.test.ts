import { expect, it } from 'vitest'
import { FRESH, perLane } from '../lanes/lane.js'
import { ProxyOrders } from '../processes/proxy-orders.js'

const FIRST = Number(process.env.FDB_ORDERS_SEED ?? (FRESH ? Date.now() % 1_000_000 : 1))
const SEEDS = Number(process.env.FDB_ORDERS_SEEDS ?? perLane(1, 100))

it(`the proxy answers each request and each order through random orders: ${SEEDS} seeds from FDB_ORDERS_SEED=${FIRST}`, {
  timeout: 30_000 + SEEDS * 60_000,
}, async () => {
  const found: string[] = []
  for (let seed = FIRST; seed < FIRST + SEEDS; seed++) {
    const orders = new ProxyOrders(seed)
    const wrong = await orders.run(perLane(3, 3 + (seed % 6)))
    if (wrong.length > 0)
      found.push(`seed ${seed}:\n${[...wrong, ...orders.ledger.story, orders.output].join('\n')}`)
  }
  expect(found.join('\n\n')).toBe('')
})
