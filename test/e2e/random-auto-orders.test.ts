import { it } from 'vitest'
import { AutoOrders } from '../processes/auto-orders.js'
import { playSeeds, seedsOf } from '../processes/drawn-seeds.js'

const SEEDS = seedsOf(100)

it(
  `an unmodified server answers each request and each order through random orders: ${SEEDS.count} seeds from FDB_ORDERS_SEED=${SEEDS.first}`,
  {
    timeout: 30_000 + SEEDS.count * 60_000,
  },
  () => playSeeds(SEEDS, seed => new AutoOrders(seed)),
)
