import { afterEach, describe, expect, it, vi } from 'vitest'
import type { Member, Section } from '../../src/index.js'
import { REMOVE } from '../../src/state/draft.js'
import type { SectionSchema } from '../../src/state/schema.js'
import { type Expiring, ExpiringSection } from '../../src/stores/expiring-section.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

afterEach(() => void vi.useRealTimers())

const HOUR = 3_600_000

/** A section as a worker has it: the first worker makes the changes, in order, each some turns after its order. */
function sectionOfWorker() {
  const entries = new Map<string, Expiring<number>>()
  let made: Promise<void> = Promise.resolve()
  const later = async (change: () => void) => {
    made = made.then(async () => {
      for (let i = 0; i < 3; i++) await undefined
      change()
    })
    await made
  }
  const store = (key: string, entry: Expiring<number> | typeof REMOVE | undefined) => {
    if (entry === REMOVE) entries.delete(key)
    else if (entry !== undefined) entries.set(key, entry)
  }
  const section = {
    get: (key: string) => entries.get(key),
    put: (key: string, entry: Expiring<number>) => later(() => store(key, entry)),
    delete: (key: string) => later(() => store(key, REMOVE)),
    update: (key: string, change: (entry: Expiring<number> | undefined) => Expiring<number> | undefined) =>
      later(() => store(key, change(entries.get(key)))),
    async *readable_() {
      yield* [...entries]
    },
    warn_: (error: unknown) => expect(error).toBeUndefined(),
  }
  return { entries, section: section as unknown as Section<Expiring<number>> }
}

describe('entries that expire', () => {
  it('keep their last change while others expire or move, and do not come back', async () => {
    const STEPS = fc.array(
      fc.record({
        does: fc.constantFrom('set', 'destroy', 'touch', 'expire', 'sweep', 'turns'),
        key: fc.constantFrom('a', 'b', 'c'),
      }),
      { minLength: 1, maxLength: 16 },
    )
    const property = fc.asyncProperty(STEPS, async steps => {
      vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
      const { entries, section } = sectionOfWorker()
      const whileServing = (start: () => () => void) => void start()
      const member = { section: () => section, whileServing } as unknown as Member
      const schema = {} as SectionSchema<Expiring<number>>
      const expiring = new ExpiringSection<number>({ section: 'short', schema, member })
      const changes: Promise<unknown>[] = []
      /** By key, the value that its last set has given; null: it was destroyed, or has expired. */
      const last = new Map<string, number | null>()
      for (const [n, { does, key }] of steps.entries()) {
        if (does === 'set') {
          last.set(key, n)
          changes.push(expiring.put(key, n, HOUR))
        } else if (does === 'destroy') {
          last.set(key, null)
          changes.push(expiring.delete(key))
        } else if (does === 'expire') {
          last.set(key, null)
          changes.push(expiring.put(key, n, -1))
        } else if (does === 'touch')
          changes.push(expiring.change(key, ({ value }) => ({ value, expires: Date.now() + HOUR })))
        else if (does === 'sweep') vi.advanceTimersByTime(60_000)
        else for (let i = 0; i < 5; i++) await undefined
      }
      await Promise.all(changes)
      for (const [key, value] of last) expect(expiring.get(key) ?? null).toBe(value)
      vi.advanceTimersByTime(60_000)
      await new Promise(resolve => setImmediate(resolve))
      // The section has the entries that were set, and no others.
      const kept = [...entries].map(([key, { value }]) => [key, value])
      expect(new Map(kept as [string, number][])).toEqual(
        new Map([...last].filter(([, value]) => value !== null)),
      )
      vi.useRealTimers()
    })
    await fc.assert(property, { numRuns: perLane(300, 10_000) })
  })
})
