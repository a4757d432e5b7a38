import { it } from 'vitest'
import { playSeeds, seedsOf } from '../processes/drawn-seeds.js'
import { ProxyOrders } from '../processes/proxy-orders.js'

const SEEDS = seedsOf(100)

it(
  `the proxy answers each request and each order through random orders: ${SEEDS.count} seeds from FDB_ORDERS_SEED=${SEEDS.first}`,
  {
    timeout: 30_000 + SEEDS.count * 60_000,
  },
  () => playSeeds(SEEDS, seed => new ProxyOrders(seed)),
)
