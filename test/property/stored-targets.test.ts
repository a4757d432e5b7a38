import { isDeepStrictEqual } from 'node:util'
import { describe, expect, it } from 'vitest'
import { StoredTargets } from '../../src/proxy/routes/reconcile.js'
import { routeMessage, routesSection, targetOf } from '../../src/proxy/routes/section.js'
import { type RouteTarget, sameTarget } from '../../src/proxy/routes/target.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const { codec } = routesSection
const FAR = 100_000
/** A field of a message, or what looks like one. */
const JUNK = fc.oneof(
  fc.constantFrom(
    [0x70, 1],
    [0x78, 0xff, 1],
    [0x70, 0xff],
    [0x78],
    [0x70, 0x80, 0x80],
    [0x70, ...new Array(10).fill(0x80), 1],
    [0x78, ...new Array(9).fill(0x80), 1],
    [0xc0, 2, 7],
    [0x4a, 0],
  ),
  fc.constantFrom([0x0a, 3, 0x0a, 1, 0x62], [0x12, 2, 8, 7], [0x10, 1], [0x71, 1, 2, 3, 4, 5, 6, 7, 8]),
  fc.array(fc.integer({ min: 0, max: 255 }), { maxLength: 3 }),
)
const text = fc.constantFrom('', 'a', 'b', 'ä', 'a b', '[]', '"', 'x'.repeat(2_000), 'a {"host":"b"}')
const fields = fc.record({ set: fc.array(fc.tuple(text, text), { maxLength: 2 }), remove: fc.array(text) })
const some = fields.filter(({ set, remove }) => set.length + remove.length > 0)
const plain: fc.Arbitrary<RouteTarget> = fc.oneof(
  fc.record(
    {
      kind: fc.constant('upstream' as const),
      upstream: text,
      connect: fc.boolean(),
      changes: fc
        .record({ host: fc.constantFrom('a', 'b'), request: some, response: some }, { requiredKeys: [] })
        .filter(changes => Object.keys(changes).length > 0),
    },
    { requiredKeys: ['kind', 'upstream', 'connect'] },
  ),
  fc.record({
    kind: fc.constant('respond' as const),
    status: fc.constantFrom(0, 200, 503),
    body: text,
    headers: fc.array(fc.tuple(text, text), { maxLength: 2 }),
  }),
)
const texts = fc.array(text, { maxLength: 2 })
const count = fc.integer({ min: 1, max: 1_000_000 })
const limit = fc.record({ requests: count, per: count, burst: count, by: text, name: text })
const cors = fc.record({
  origins: texts,
  methods: texts,
  headers: texts,
  expose: texts,
  credentials: fc.boolean(),
  maxAge: fc.constantFrom(0, 600_000),
})
const auth = fc.record({ realm: text, users: fc.array(fc.tuple(text, text), { minLength: 1, maxLength: 2 }) })
const forwardAuth = fc.record({
  upstream: text,
  path: text,
  timeout: count,
  requestHeaders: fc.option(texts),
  responseHeaders: texts,
})
const target: fc.Arbitrary<RouteTarget> = fc.oneof(
  plain,
  fc.tuple(plain, auth).map(([given, auth]) => ({ ...given, auth })),
  fc.tuple(plain, forwardAuth).map(([given, forwardAuth]) => ({ ...given, forwardAuth })),
  fc.tuple(plain, forwardAuth, cors).map(([given, forwardAuth, cors]) => ({ ...given, forwardAuth, cors })),
  fc.tuple(plain, cors).map(([given, cors]) => ({ ...given, cors })),
  fc.tuple(plain, limit).map(([given, limit]) => ({ ...given, limit })),
  fc.tuple(plain, auth, cors, limit).map(([given, auth, cors, limit]) => ({ ...given, auth, cors, limit })),
  plain.map(given => ({ ...given, unlogged: true as const })),
  fc.tuple(plain, auth, cors).map(([given, auth, cors]) => ({ ...given, auth, cors })),
)
const stamp = fc.record({
  generation: fc.constantFrom(0, 1, 300),
  created: fc.constantFrom(0, 1, 1_700_000_000_000),
})

/** The stored value, between other bytes. */
function stored(value: Uint8Array) {
  const before = Buffer.from('before')
  const bytes = Buffer.concat([before, value, Buffer.from([0x70, 1, 0x0a, 1])])
  return new StoredTargets({
    size: 1,
    get: () => expect.fail('it was decoded'),
    has: () => true,
    keys: () => ['a'],
    isStored_: (_, is) => is(bytes, before.length, before.length + value.length),
  })
}

function decoded(value: Uint8Array): RouteTarget | null {
  try {
    return targetOf(codec.decode(value))
  } catch {
    return null
  }
}

describe('the target of a stored route', () => {
  it('follows from its bytes, whatever version wrote it and when', () => {
    fc.assert(
      fc.property(target, stamp, (wanted, who) => {
        expect(stored(codec.encode(routeMessage(wanted, who))).has('a', wanted)).toBe(true)
      }),
      { seed: 7, numRuns: perLane(250, 2_000) },
    )
  })

  it('never matches another one', () => {
    let were = 0
    fc.assert(
      fc.property(
        target,
        target,
        stamp,
        fc.array(JUNK, { maxLength: 2 }),
        fc.nat(FAR),
        (one, other, who, more, cut) => {
          const whole = Buffer.concat([codec.encode(routeMessage(one, who)), Uint8Array.from(more.flat())])
          const value = cut < FAR / 2 ? whole : whole.subarray(0, cut % (whole.length + 1))
          for (const wanted of [one, other]) {
            if (!stored(value).has('a', wanted)) continue
            were++
            expect(decoded(value)).toEqual(wanted)
          }
        },
      ),
      { seed: 8, numRuns: perLane(2_500, 20_000) },
    )
    expect(were).toBeGreaterThan(perLane(250, 2_000))
  })

  it('differs where anything of it does', () => {
    fc.assert(
      fc.property(target, target, (one, other) => {
        // Records are made without a prototype now and then.
        expect(sameTarget(one, other)).toBe(isDeepStrictEqual(structuredClone(one), structuredClone(other)))
      }),
      { seed: 9, numRuns: perLane(2_500, 20_000) },
    )
  })

  it('differs from that of an upstream whose name says what it changes', () => {
    const one = { kind: 'upstream', upstream: 'a', connect: false, changes: { host: 'b' } } as const
    expect(sameTarget(one, { kind: 'upstream', upstream: 'a {"host":"b"}', connect: false })).toBe(false)
    expect(sameTarget(one, { kind: 'upstream', upstream: '{"host":"b"} a', connect: false })).toBe(false)
  })

  it('comes out right for more targets than are kept', () => {
    const targets = Array.from(
      { length: 3_000 },
      (_, n): RouteTarget => ({
        kind: 'respond',
        status: 200,
        body: `${n}`,
        headers: [],
      }),
    )
    let value: Uint8Array = new Uint8Array()
    const all = new StoredTargets({
      size: 1,
      get: () => undefined,
      has: () => true,
      keys: () => [],
      isStored_: (_, is) => is(value, 0, value.length),
    })
    for (const [n, each] of targets.entries()) {
      value = codec.encode(routeMessage(each, { generation: 1, created: 1 }))
      expect([all.has('a', each), all.has('a', targets[(n + 1) % 3_000]!)]).toEqual([true, false])
    }
  })
})
