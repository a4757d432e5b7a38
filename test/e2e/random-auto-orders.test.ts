import { it } from 'vitest'
import { FRESH } from '../lanes/lane.js'
import { AutoOrders } from '../processes/auto-orders.js'
import { playSeeds, seedsOf } from '../processes/drawn-seeds.js'

const SEEDS = seedsOf(100)

it.runIf(FRESH)(
  `an unmodified server answers each request and each order through random orders: ${SEEDS.count} seeds from FDB_ORDERS_SEED=${SEEDS.first}`,
  {
    // Up to eight acts, of which each has deadlines of its own; on a busy machine one takes 20 s.
    timeout: 30_000 + SEEDS.count * 240_000,
  },
  () => playSeeds(SEEDS, seed => new AutoOrders(seed)),
)
