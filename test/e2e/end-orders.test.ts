import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { STOP, stopBody } from '../../src/operator/service-commands.js'
import { perLane } from '../lanes/lane.js'
import { type MemberPhaseName, phaseOf } from '../orders/phases.js'
import { FOR_EVER_MS, type MemberHosting, SLOW, World } from '../orders/world.js'
import type { App } from '../processes/app.js'

/** The time that is ordered. The connections of each process would last far longer. */
const ORDERED_MS = 700
/** A process on a slow machine ends so much later. */
const LATE_MS = 10_000
const PHASES: readonly MemberPhaseName[] = [
  'joining',
  'ready',
  'preparing',
  'serving',
  'probation',
  'standby',
  'leaving',
  'unfit',
  'orphan',
]
/** A stop of the service reaches these through the process that serves. */
const REPLACED: readonly MemberPhaseName[] = ['standby', 'leaving']

interface Order {
  readonly drainMs: number
  /** An operator gives it to the service. */
  readonly needsServing?: true
  /** The longest time that was ordered, if that is not {@link ORDERED_MS}. */
  readonly longestMs?: number
  give(app: App, world: World): Promise<void>
}

function close(app: App, facts: object): void {
  // The answer may not come: the process ends.
  app.order('close', facts).catch(() => {})
}

const ORDERS: Readonly<Record<string, Order>> = {
  'close({ timeout })': {
    drainMs: FOR_EVER_MS,
    give: async app => close(app, { timeout: ORDERED_MS }),
  },
  'close()': { drainMs: ORDERED_MS, give: async app => close(app, {}) },
  TERM: { drainMs: FOR_EVER_MS, give: async app => app.signal('SIGTERM') },
  'close({ timeout, handBack: false })': {
    drainMs: FOR_EVER_MS,
    give: async app => close(app, { timeout: ORDERED_MS, handBack: false }),
  },
  'a second close with a shorter timeout': {
    drainMs: FOR_EVER_MS,
    longestMs: FOR_EVER_MS,
    give: async app => {
      close(app, { timeout: FOR_EVER_MS })
      // Orders over the private socket come one after the other: the first has come when this one is answered.
      await app.order('phase').catch(() => {})
      close(app, { timeout: ORDERED_MS })
    },
  },
  stop: {
    drainMs: FOR_EVER_MS,
    needsServing: true,
    give: async (_app, { scene, hosting }) => {
      using client = await OperatorClient.connect(scene.control)
      const body = stopBody({ timeoutMs: ORDERED_MS, drop: false })
      await client.command(STOP, body, hosting === 'daemon' ? { service: 'shop' } : {})
    },
  },
}

interface Cell {
  readonly hosting: MemberHosting
  readonly phase: MemberPhaseName
  readonly order: string
}

/** In the gate each order, and each phase in which an order was ignored once. */
const GATE: readonly Cell[] = [
  { hosting: 'embedded', phase: 'standby', order: 'close({ timeout })' },
  { hosting: 'embedded', phase: 'leaving', order: 'TERM' },
  { hosting: 'embedded', phase: 'leaving', order: 'a second close with a shorter timeout' },
  { hosting: 'embedded', phase: 'probation', order: 'stop' },
  { hosting: 'daemon', phase: 'leaving', order: 'close()' },
  { hosting: 'daemon', phase: 'standby', order: 'stop' },
  { hosting: 'daemon', phase: 'standby', order: 'close({ timeout, handBack: false })' },
]

function* everyCell(): Generator<Cell> {
  for (const hosting of ['embedded', 'daemon'] as const)
    for (const phase of PHASES)
      for (const [order, { needsServing }] of Object.entries(ORDERS)) {
        const { only = hosting, serves } = phaseOf(phase)
        // While changes wait, an operator waits too.
        const isReached = (serves && phase !== 'preparing') || REPLACED.includes(phase)
        if (only === hosting && (isReached || !needsServing)) yield { hosting, phase, order }
      }
}

describe('an order to end', () => {
  it.each(perLane(GATE, [...everyCell()]))(
    'takes effect long before the connections end: $hosting, $phase, $order',
    async ({ hosting, phase, order }) => {
      const { upgrade, reach } = phaseOf(phase)
      const { drainMs, give, longestMs = ORDERED_MS } = ORDERS[order]!
      const world = await World.open(hosting, {
        drain: { timeout: drainMs, tlsTimeout: FOR_EVER_MS },
        upgrade: { ...SLOW, ...upgrade },
        endWithin: ORDERED_MS,
      })
      const { app } = await reach(world, true)
      const told = world.manager.notes.length
      const orderedAt = performance.timeOrigin + performance.now()
      await give(app, world)
      const { at } = await app.says('retired', ORDERED_MS + 2 * LATE_MS)
      expect(at - orderedAt).toBeLessThan(ORDERED_MS + LATE_MS)
      const extended = world.manager.notes.slice(told).map(note => note.EXTEND_TIMEOUT_USEC ?? '0')
      expect(Math.max(0, ...extended.map(Number))).toBeLessThanOrEqual(longestMs * 1_000)
    },
  )
})
