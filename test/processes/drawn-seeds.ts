import { expect } from 'vitest'
import { FRESH, perLane } from '../lanes/lane.js'
import type { DrawnOrders } from './drawn-orders.js'

/** The seeds of a set of drawn orders: one in the gate, `nightly` at night. */
export function seedsOf(nightly: number): { readonly first: number; readonly count: number } {
  const first = Number(process.env.FDB_ORDERS_SEED ?? (FRESH ? Date.now() % 1_000_000 : 1))
  return { first, count: Number(process.env.FDB_ORDERS_SEEDS ?? perLane(1, nightly)) }
}

/** Plays each seed, and expects that nothing is wrong. */
export async function playSeeds(
  { first, count }: ReturnType<typeof seedsOf>,
  orders: (seed: number) => Pick<DrawnOrders, 'run' | 'ledger' | 'output'>,
): Promise<void> {
  const found: string[] = []
  for (let seed = first; seed < first + count; seed++) {
    const played = orders(seed)
    const wrong = await played.run(perLane(3, 3 + (seed % 6)))
    if (wrong.length > 0)
      found.push(`seed ${seed}:\n${[...wrong, ...played.ledger.story, played.output].join('\n')}`)
  }
  expect(found.join('\n\n')).toBe('')
}
