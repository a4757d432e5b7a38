import { describe, expect, it } from 'vitest'
import { OwnedFd } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { messageType } from '../fixtures/message-type.js'
import {
  Digest,
  defineSection,
  json,
  type ProtobufType,
  protobuf,
  type Section,
  type SectionSchema,
  Segment,
  StateLog,
} from '../fixtures/state.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

interface Route {
  to: string
  weight: number
  note: string
  ports: number[]
}

const FIELDS = [
  'string to = 1;',
  'uint32 weight = 2;',
  'string note = 3; Deep deep = 6; message Deep { bytes x = 1; }',
  'repeated uint32 ports = 4;',
]
const LOWEST = { 1: 1, 2: 1, 3: 2 } as const
type Version = keyof typeof LOWEST

function typeOf(version: Version): ProtobufType<Route> {
  return messageType('Route', FIELDS.slice(0, version + 1).join(' '))
}

/** Newer fields that an entry of an older version lacks. */
function migrated<T extends Partial<Route>>(route: T, from: number, to: number): T {
  if (from < 2 && to >= 2 && !route.note) route.note = 'two'
  if (from < 3 && to >= 3 && (route.ports ?? []).length === 0) route.ports = [3]
  return route
}

function schemaOf(version: Version): SectionSchema<Route> {
  const codec = protobuf(typeOf(version))
  return defineSection({ version, minReader: LOWEST[version], codec, cache: 3, migrate: migrated })
}

interface Stored extends Partial<Route> {
  version: Version
}

const key = fc.constantFrom('a', 'b', 'c', 'd', 'e', 'ä')
const route = fc.record({
  to: fc.constantFrom('x', 'y'),
  weight: fc.integer({ min: 1, max: 9 }),
  note: fc.constantFrom('', 'n'),
  ports: fc.array(fc.integer({ min: 1, max: 300 }), { maxLength: 2 }),
})
/** The schema that a generation of the application has. */
const generation = fc.constantFrom<Version>(1, 2, 2, 3)
const operation = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('put' as const), key, route }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('change' as const),
      key,
      weight: fc.integer({ min: 1, max: 99 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('delete' as const), key }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('bulk' as const),
      changes: fc.array(fc.record({ key, route: fc.option(route, { freq: 4 }) }), { maxLength: 9 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('clear' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('compact' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('other' as const), key }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('handoff' as const), to: generation }) },
)
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never

/** Small bulks take several records too. */
const LIMITS = { limits: { changesPerRecord: 3 } }

class World {
  /** Each entry's value to a reader of all fields, and its last writer. */
  readonly model = new Map<string, Stored>()
  readonly others = new Map<string, number>()
  /** The version of the section in the log. */
  stored: Version | 0 = 0
  #now: Version
  #log: StateLog
  #section: Section<Route>
  #epoch = 1
  refusals = 0

  constructor(first: Version) {
    this.#now = first
    this.#log = new StateLog(LIMITS)
    this.#log.startWriting(Segment.create(1))
    this.#section = this.#log.section('routes', schemaOf(first))
  }

  #known(given: Route): Stored {
    const version = this.#now
    const { to, weight, note, ports } = given
    return { to, weight, ...(version >= 2 && { note }), ...(version >= 3 && { ports }), version }
  }

  #wrote(): void {
    const version = this.#now
    if (version > this.stored) this.stored = version
  }

  async run(operation: Operation): Promise<void> {
    const { model } = this
    const section = this.#section
    switch (operation.kind) {
      case 'put': {
        const { version, ...value } = this.#known(operation.route)
        await section.put(operation.key, value as Route)
        model.set(operation.key, { ...value, version })
        this.#wrote()
        break
      }
      case 'change': {
        const value = section.get(operation.key)
        const before = model.get(operation.key)
        expect(value === undefined).toBe(before === undefined)
        if (value === undefined || before === undefined) break
        value.weight = operation.weight
        await section.put(operation.key, value)
        const version = this.#now
        model.set(operation.key, {
          ...migrated({ ...before }, before.version, version),
          weight: operation.weight,
          version,
        })
        this.#wrote()
        break
      }
      case 'delete':
        await section.delete(operation.key)
        model.delete(operation.key)
        this.#wrote()
        break
      case 'bulk': {
        if (operation.changes.length === 0) break
        const changes = operation.changes.map(({ key, route }) => {
          if (route === null) return { key, delete: true as const }
          const { version, ...value } = this.#known(route)
          return { key, value: value as Route }
        })
        await section.bulk(changes)
        for (const { key, route } of operation.changes) {
          if (route === null) model.delete(key)
          else model.set(key, this.#known(route))
        }
        this.#wrote()
        break
      }
      case 'clear':
        await section.clear()
        model.clear()
        this.#wrote()
        break
      case 'compact':
        await this.#log.compact()
        break
      case 'other': {
        // A section that only the third version knows.
        if (this.#now < 3) break
        const n = this.others.size
        this.#other ??= this.#log.section(
          'other',
          defineSection({ version: 9, minReader: 9, codec: json<number>() }),
        )
        await this.#other.put(operation.key, n)
        this.others.set(operation.key, n)
        break
      }
      case 'handoff':
        await this.#handoff(operation.to)
    }
  }

  #other: Section<number> | null = null

  /** As in a handoff: sealed, read by the other side, and equal in sequence and digest. */
  async #handoff(to: Version): Promise<void> {
    const before = this.#log.pauseWriting()
    const next = new StateLog(LIMITS)
    for (const raw of this.#log.segments.map(({ fd }) => native.reopenReadOnly(fd.raw))) {
      await next.adopt(Segment.open(OwnedFd.own(raw, 'a segment')))
    }
    expect(next.position).toEqual(before)
    const lowest = this.stored === 0 ? 1 : LOWEST[this.stored]
    if (lowest > to) {
      expect(() => next.section('routes', schemaOf(to))).toThrow(
        `section "routes" was written with schema version ${this.stored}, which needs a reader of version ${lowest} or newer; ` +
          `this process has version ${to}. `,
      )
      next.close()
      this.#log.resumeWriting()
      this.refusals++
      return
    }
    for (const segment of this.#log.segments) if (!segment.sealed) segment.seal()
    this.#log.close()
    next.startWriting(Segment.create(++this.#epoch))
    this.#log = next
    this.#now = to
    this.#section = next.section('routes', schemaOf(to))
    this.#other = null
    this.check()
  }

  check(): void {
    const version = this.#now
    expect([...this.#section.keys()].sort()).toEqual([...this.model.keys()].sort())
    expect(this.#section.version).toBe(this.stored)
    const all = typeOf(3)
    const digest = new Digest()
    for (const [key, { version: by, ...expected }] of this.model) {
      const entry = this.#log.rawSection('routes').get(key)!
      expect([key, entry.version]).toEqual([key, by])
      digest.add(Buffer.from('routes'), Buffer.from(key), entry.value)
      // As it lies there, to who knows all fields.
      expect({ ...plain(all.decode(entry.value)) }).toEqual(plain(expected))
      // As this version sees it.
      const seen = plain(migrated({ ...expected }, by, version))
      const got = this.#section.get(key)!
      expect([got.to, got.weight]).toEqual([seen.to, seen.weight])
      if (version >= 2) expect(got.note).toBe(seen.note)
      if (version >= 3) expect(got.ports).toEqual(seen.ports)
    }
    const other = this.#log.rawSection('other')
    for (const [key, n] of this.others) {
      const entry = other.get(key)!
      expect([Buffer.from(entry.value).toString(), entry.version]).toEqual([`${n}`, 9])
      digest.add(Buffer.from('other'), Buffer.from(key), entry.value)
    }
    expect(this.#log.position.digest).toBe(digest.toString())
  }

  close(): void {
    this.#log.close()
  }
}

function plain({ to = '', weight = 0, note = '', ports = [] }: Partial<Route>): Route {
  return { to, weight, note, ports }
}

describe('any sequence of changes by three schema versions', () => {
  it('adds up to the model: no field is lost to an older version, and a reader that is too old is refused', async () => {
    let refusals = 0
    await fc.assert(
      fc.asyncProperty(
        generation,
        fc.array(operation, { maxLength: 40, size: 'max' }),
        async (first, operations) => {
          const world = new World(first)
          try {
            for (const one of operations) await world.run(one)
            world.check()
            refusals += world.refusals
          } finally {
            world.close()
          }
        },
      ),
      {
        numRuns: Number(process.env.FDB_RUNS ?? perLane(50, 400)),
        seed: 4,
        interruptAfterTimeLimit: 60_000,
      },
    )
    expect(refusals).toBeGreaterThan(perLane(2, 20))
  })
})
