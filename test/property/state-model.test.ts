import { describe, expect, it } from 'vitest'
import type { BulkChange } from '../../src/state/bulk.js'
import { json } from '../../src/state/codec.js'
import { Digest } from '../../src/state/digest.js'
import { defineSection } from '../../src/state/schema.js'
import type { Section } from '../../src/state/section.js'
import { Segment } from '../../src/state/segment.js'
import { StateLog, type StateLogOptions } from '../../src/state/state-log.js'
import { readBy } from '../fixtures/state-logs.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

/** A plain model of what a log adds up to. */
class Model {
  readonly sections = new Map<string, Map<string, number>>()

  section(name: string): Map<string, number> {
    let section = this.sections.get(name)
    if (!section) this.sections.set(name, (section = new Map()))
    return section
  }

  digest(): string {
    const digest = new Digest()
    for (const [name, section] of this.sections) {
      for (const [key, value] of section)
        digest.add(Buffer.from(name), Buffer.from(key), Buffer.from(`${value}`))
    }
    return digest.toString()
  }
}

const name = fc.constantFrom('routes', 'upstreams', 'ä')
const key = fc.oneof(fc.constantFrom('a', 'b', 'c', 'd', ''), fc.string({ unit: 'grapheme', maxLength: 4 }))
const value = fc.integer({ min: 0, max: 99 })
const put = fc.record({ key, value })
const remove = fc.record({ key, delete: fc.constant(true as const) })
const operation = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('put' as const), name, key, value }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('delete' as const), name, key }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('bulk' as const),
      name,
      changes: fc.array(fc.oneof(put, remove), { maxLength: 12 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('clear' as const), name }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('request' as const), name, key, value }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('turn' as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('segment' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('pause' as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('compact' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('handoff' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('follow' as const) }) },
)
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never

const schema = defineSection<number>({ version: 1, codec: json(), cache: 2 })
const sectionOf = (log: StateLog, of: string): Section<number> => log.section(of, schema)

class World {
  readonly model = new Model()
  readonly options: StateLogOptions
  log: StateLog
  readonly pending: Promise<unknown>[] = []
  epoch = 1
  requests = 0

  constructor(options: StateLogOptions) {
    this.options = options
    this.log = new StateLog(options)
    this.log.startWriting(Segment.create(1))
  }

  #next(log: StateLog): void {
    log.startWriting(Segment.create(++this.epoch))
  }

  #sealAll(): void {
    for (const segment of this.log.segments) segment.seal()
  }

  async run(operation: Operation): Promise<void> {
    const { log, model, pending } = this
    switch (operation.kind) {
      case 'put':
        pending.push(sectionOf(log, operation.name).put(operation.key, operation.value))
        model.section(operation.name).set(operation.key, operation.value)
        break
      case 'delete':
        pending.push(sectionOf(log, operation.name).delete(operation.key))
        model.section(operation.name).delete(operation.key)
        break
      case 'clear':
        pending.push(sectionOf(log, operation.name).clear())
        model.section(operation.name).clear()
        break
      case 'bulk': {
        const changes: BulkChange<number>[] = operation.changes
        pending.push(sectionOf(log, operation.name).bulk(changes))
        for (const change of changes) {
          if ('delete' in change) model.section(operation.name).delete(change.key)
          else model.section(operation.name).set(change.key, change.value)
        }
        break
      }
      case 'request': {
        const options = { request: `r${this.requests++}` }
        const section = sectionOf(log, operation.name)
        pending.push(section.put(operation.key, operation.value, options))
        pending.push(section.put(operation.key, operation.value + 1000, options))
        model.section(operation.name).set(operation.key, operation.value)
        break
      }
      case 'turn':
        await new Promise(resolve => setImmediate(resolve))
        break
      case 'segment':
        // Sealed under the writer's feet: what waits at this moment goes to the next segment.
        this.#sealAll()
        this.#next(log)
        break
      case 'pause':
        log.pauseWriting()
        queueMicrotask(() => log.resumeWriting())
        break
      case 'compact':
        pending.push(log.compact())
        break
      case 'follow': {
        const before = log.position
        const reader = await readBy(log)
        const after = log.position
        // A bulk in several records may be going on.
        const { sequence } = reader.position
        if (sequence === before.sequence) expect(reader.position).toEqual(before)
        else if (sequence === after.sequence) expect(reader.position).toEqual(after)
        else expect(sequence).toBeLessThan(after.sequence)
        reader.close()
        break
      }
      case 'handoff': {
        log.pauseWriting()
        log.resumeWriting()
        await Promise.all(pending.splice(0))
        this.#sealAll()
        const next = await readBy(log, this.options)
        expect(next.position).toEqual(log.position)
        log.close()
        this.#next(next)
        this.log = next
      }
    }
  }

  async check(): Promise<void> {
    await Promise.all(this.pending.splice(0))
    const { log, model } = this
    expect(log.position.digest).toBe(model.digest())
    for (const [of, section] of model.sections) {
      expect(new Map(sectionOf(log, of).entries())).toEqual(section)
    }
    const reader = await readBy(log)
    expect(reader.position).toEqual(log.position)
    const entries = [...model.sections.values()].reduce((sum, section) => sum + section.size, 0)
    expect([log.stats().entries, reader.stats().entries]).toEqual([entries, entries])
    reader.close()
  }
}

/** The second: bulks of more than three changes take several records, each change a turn of the event loop. */
const OPTIONS: [string, StateLogOptions][] = [
  ['', { sliceMs: 1 }],
  [', with bulks in several records', { sliceMs: 0.001, limits: { changesPerRecord: 3 } }],
]

describe.each(OPTIONS)(
  'any sequence of changes, seals, new segments, compactions and handoffs%s',
  (_, options) => {
    it('gives the same map and digest as a plain model, here and for the next reader', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(operation, { maxLength: 60, size: 'max' }), async operations => {
          const world = new World(options)
          try {
            for (const one of operations) await world.run(one)
            await world.check()
          } finally {
            world.log.close()
            await Promise.allSettled(world.pending)
          }
        }),
        {
          numRuns: Number(process.env.FDB_RUNS ?? perLane(60, 1000)),
          seed: 4,
          interruptAfterTimeLimit: 60_000,
        },
      )
    })
  },
)
