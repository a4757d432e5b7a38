import { describe, expect, it } from 'vitest'
import { bytes, defineSection, type Section, Segment, StateLog } from '../fixtures/state.js'
import { readBy, writingLog } from '../fixtures/state-logs.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

/** A schema whose version cannot decode any entry. */
function blindSchema(version: number) {
  const decode = () => {
    throw new Error('not decoded')
  }
  return defineSection({ version, codec: { ...bytes(), decode } })
}

const version = fc.constantFrom(1, 2, 3)
const key = fc.integer({ min: 0, max: 40 }).map(number => (number % 10 === 9 ? `ä${number}` : `k${number}`))
const operation = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('puts' as const),
      /** A reader joins two or more records of one put each, and the store applies eight or more together. */
      keys: fc.array(key, { maxLength: 20, size: 'max' }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('delete' as const), key }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('bulk' as const),
      clear: fc.boolean(),
      /** Consecutive puts: the store applies eight or more together. */
      puts: fc.array(key, { maxLength: 60, size: 'max' }),
      deletes: fc.array(key, { maxLength: 3 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('clear' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('compact' as const) }) },
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('handoff' as const), to: version }) },
)
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never

/** The number of entries that a version of the schema refuses. */
async function refusedBy(log: StateLog, version: number): Promise<number> {
  log.section('s', blindSchema(version))
  try {
    await log.checkEntries()
    return 0
  } catch (error) {
    return (error as { details: { invalid: number } }).details.invalid
  }
}

class World {
  /** The version that has written each entry. */
  readonly #model = new Map<string, number>()
  #now: number
  #epoch = 1
  #log: StateLog
  #section: Section<Uint8Array>

  constructor(first: number) {
    this.#now = first
    this.#log = writingLog().log
    this.#section = this.#log.section('s', blindSchema(first))
  }

  async run(operation: Operation): Promise<void> {
    const section = this.#section
    const value = Uint8Array.of(this.#now)
    switch (operation.kind) {
      case 'puts':
        for (const key of operation.keys) {
          await section.put(key, value)
          this.#model.set(key, this.#now)
        }
        break
      case 'delete':
        await section.delete(operation.key)
        this.#model.delete(operation.key)
        break
      case 'bulk': {
        const { clear, puts, deletes } = operation
        await section.bulk([
          ...(clear ? [{ op: 'clear' as const }] : []),
          ...puts.map(key => ({ key, value })),
          ...deletes.map(key => ({ key, delete: true as const })),
        ])
        if (clear) this.#model.clear()
        for (const key of puts) this.#model.set(key, this.#now)
        for (const key of deletes) this.#model.delete(key)
        break
      }
      case 'clear':
        await section.clear()
        this.#model.clear()
        break
      case 'compact':
        await this.#log.compact()
        break
      case 'handoff':
        await this.#handoff(operation.to)
    }
  }

  async #handoff(to: number): Promise<void> {
    for (const segment of this.#log.segments) if (!segment.sealed) segment.seal()
    const next = await readBy(this.#log)
    this.#log.close()
    next.startWriting(Segment.create(++this.#epoch))
    this.#log = next
    this.#now = to
    this.#section = next.section('s', blindSchema(to))
  }

  #writtenByOthers(version: number): number {
    return [...this.#model.values()].filter(by => by !== version).length
  }

  async check(): Promise<void> {
    for (const version of [1, 2, 3]) {
      const reader = await readBy(this.#log)
      const other = new StateLog()
      try {
        const refused = await refusedBy(reader, version)
        expect([version, refused]).toEqual([version, this.#writtenByOthers(version)])
        await reader.compact()
        await other.rebuild(reader.segments.map(segment => segment.readOnly()))
        expect(await refusedBy(other, version)).toBe(refused)
      } finally {
        reader.close()
        other.close()
      }
    }
  }

  close(): void {
    this.#log.close()
  }
}

describe('any sequence of changes by three schema versions', () => {
  it('leaves each version the entries of the others to decode, however the changes were made', async () => {
    await fc.assert(
      fc.asyncProperty(version, fc.array(operation, { maxLength: 20, size: 'max' }), async (first, all) => {
        const world = new World(first)
        try {
          for (const one of all) await world.run(one)
          await world.check()
        } finally {
          world.close()
        }
      }),
      { numRuns: perLane(40, 600) },
    )
  })
})
