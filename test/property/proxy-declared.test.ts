import protobufjs from 'protobufjs/minimal.js'
import { describe, expect, it } from 'vitest'
import { fdbroker } from '../../src/proto/proxy.js'
import type { ProxyConfig } from '../../src/proxy/config/schema.js'
import {
  type DifferenceOptions,
  difference,
  type Stamp,
  type StoredEntry,
} from '../../src/proxy/entries/difference.js'
import {
  listenerMessage,
  settingMessages,
  upstreamMessage,
  upstreamOf,
} from '../../src/proxy/state/entries.js'
import { listenersSection, settingsSection, upstreamsSection } from '../../src/proxy/state/sections.js'
import type { UpstreamConfig } from '../../src/proxy/upstreams/shape.js'
import { runAtOnce } from '../../src/state/time-slices.js'
import { config, EXAMPLE, LEAST } from '../fixtures/proxy-config.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const { Check } = fdbroker.proxy

const name = fc.constantFrom('a', 'b', 'c', 'd')
const ms = fc.integer({ min: 1, max: 2 ** 31 - 1 })
const server = fc.constantFrom('http://a:1', 'http://[::1]:2', 'unix:/run/x.sock', 'https://10.0.0.1:65535')
const upstream = fc.record({
  servers: fc.uniqueArray(server, { minLength: 1 }),
  retry: fc.integer({ min: 0, max: 10 }),
  resend: fc.integer({ min: 0, max: 100 }),
  health: fc.record({
    failures: fc.option(fc.integer({ min: 1, max: 1000 })),
    errors: fc.option(fc.integer({ min: 1, max: 1000 })),
    coolDown: ms,
  }),
  balance: fc.constantFrom('round-robin', 'two-choices', 'hash:header:X-User'),
  check: fc.option(
    fc.record({
      http: fc.option(fc.constantFrom('/', '/health')),
      status: fc.option(fc.integer({ min: 100, max: 599 })),
      host: fc.option(fc.constantFrom('a.test', '[::1]:80')),
      port: fc.option(fc.integer({ min: 1, max: 65_535 })),
      interval: ms,
      timeout: ms,
      rise: fc.integer({ min: 1, max: 1000 }),
      fall: fc.integer({ min: 1, max: 1000 }),
    }),
  ),
  slowStart: fc.option(ms),
  queue: fc.constant(null),
  proxyProtocol: fc.constantFrom(null, 'v1', 'v2'),
  sticky: fc.option(
    fc.record({ cookie: fc.constantFrom('a', 'b'), maxAge: fc.option(ms), secure: fc.boolean() }),
  ),
  tls: fc.option(
    fc.record({
      ca: fc.constant(null),
      name: fc.option(fc.constantFrom('a.test', '10.0.0.1')),
      cert: fc.constant(null),
      key: fc.constant(null),
      verify: fc.boolean(),
    }),
  ),
  keepAlive: fc.record({ connections: fc.integer({ min: 0, max: 10_000 }), idle: ms, age: fc.option(ms) }),
  connections: fc.option(fc.integer({ min: 1, max: 10_000 })),
  timeouts: fc.record({ connect: ms, response: ms }),
})
const upstreams = fc.dictionary(name, upstream, { maxKeys: 4 }).map(given =>
  Object.entries(given).map(([name, each]): UpstreamConfig => {
    const servers = each.servers.map(text => `"${text}"`).join(', ')
    const [read] = config(`${LEAST}upstreams: { ${name}: { servers: [${servers}] } }`).upstreams
    const [first, ...rest] = read!.servers
    return {
      ...each,
      name,
      servers: [{ ...first!, weight: 3 }, ...rest.map(server => ({ ...server, backup: true as const }))],
    }
  }),
)
const listeners = fc
  .dictionary(name, fc.constantFrom('tcp://*:80', 'tcp://[::1]:0', 'unix:/a.sock?mode=0660', 'unix:@x'), {
    minKeys: 1,
  })
  .map(given => {
    const items = Object.entries(given).map(
      ([name, address], i) =>
        `{ name: ${name}, address: "${address
          .replace(':80', `:${80 + i}`)
          .replace('a.sock', `${i}.sock`)
          .replace('@x', `@${i}`)}" }`,
    )
    return config(LEAST.replace(/\[.*\]/, `[${items.join(', ')}]`)).listeners
  })
const settings = fc.record({
  instanceHeader: fc.option(fc.constantFrom('X-Gen', 'X-Pid')),
  accessLog: fc.boolean(),
  limits: fc.record({
    headBytes: fc.constant(1024),
    fields: fc.nat(),
    body: fc.option(fc.maxSafeNat()),
    connections: fc.option(fc.oneof(fc.nat(), fc.constant('auto' as const))),
    connectionsPerClient: fc.option(fc.nat()),
  }),
  forwarded: fc.record({
    headers: fc.constantFrom('off' as const, 'both' as const),
    trust: fc.array(fc.constant({ address: '10.0.0.0', prefix: 8, family: 'ipv4' as const }), {
      maxLength: 2,
    }),
  }),
})
const configs = fc.tuple(upstreams, listeners, settings).map(
  ([upstreams, listeners, settings]): ProxyConfig => ({
    ...config(LEAST),
    ...settings,
    upstreams,
    listeners,
  }),
)

/** Field 100, bytes: what a newer version may have written. */
const UNKNOWN = Uint8Array.of(0xa2, 0x06, 2, 7, 7)

/** A section as it lies in the log: encoded. */
class Stored<M extends StoredEntry> {
  readonly bytes = new Map<string, Uint8Array>()
  readonly options: DifferenceOptions<M>
  readonly #decode: (bytes: Uint8Array) => M

  constructor(codec: { encode(value: M): Uint8Array; decode(bytes: Uint8Array): M }, keptFrom = 1) {
    this.options = { encode: codec.encode, keptFrom, keeps: key => key === 'kept' }
    this.#decode = codec.decode
  }

  get(key: string): M | undefined {
    const bytes = this.bytes.get(key)
    return bytes && this.#decode(bytes)
  }

  has(key: string): boolean {
    return this.bytes.has(key)
  }

  keys(): Iterable<string> {
    return this.bytes.keys()
  }

  /** Says what was different. */
  become(wanted: ReadonlyMap<string, M>): string[] {
    const { puts, deletes, added } = runAtOnce(difference(this, wanted, this.options))
    expect(added).toEqual(puts.map(({ key }) => key).filter(key => !this.has(key)))
    for (const { key, value } of puts) this.bytes.set(key, this.options.encode(value))
    for (const key of deletes) this.bytes.delete(key)
    return [...puts.map(({ key }) => key), ...deletes]
  }

  /** Field by field, without who wrote it and what newer versions wrote. */
  said(): Map<string, unknown> {
    return new Map(
      [...this.keys()].toSorted().map(key => {
        const { created, generation, $unknowns, ...rest } = { ...this.get(key)! }
        return [key, rest]
      }),
    )
  }

  writtenByNewer(): void {
    for (const [key, bytes] of this.bytes) this.bytes.set(key, Buffer.concat([bytes, UNKNOWN]))
  }
}

const messages = (given: ProxyConfig, stamp: Stamp) => ({
  upstreams: new Map(given.upstreams.map(each => [each.name, upstreamMessage(each, stamp)])),
  listeners: new Map(given.listeners.map(each => [each.name, listenerMessage(each, stamp)])),
  settings: settingMessages(given, stamp),
})

const sections = () => ({
  upstreams: new Stored(upstreamsSection.codec),
  listeners: new Stored(listenersSection.codec),
  settings: new Stored(settingsSection.codec, 14),
})

describe('the sections of a configuration', () => {
  it('stay the same whatever was there before, and writing again changes nothing', () => {
    fc.assert(
      fc.property(fc.array(configs, { minLength: 1, maxLength: 4 }), given => {
        const state = sections()
        for (const [generation, each] of given.entries()) {
          const wanted = messages(each, { generation, created: 1_700_000_000_000 + generation })
          const fresh = sections()
          for (const key of ['upstreams', 'listeners', 'settings'] as const) {
            const [stored, alone] = [state[key], fresh[key]] as [Stored<StoredEntry>, Stored<StoredEntry>]
            stored.become(wanted[key])
            alone.become(wanted[key])
            expect(stored.said()).toEqual(alone.said())
            const later = messages(each, { generation: 99, created: 2 })
            expect(stored.become(later[key])).toEqual([])
          }
        }
      }),
      { seed: 51, numRuns: perLane(30, 150) },
    )
  })

  it('keep what a newer version wrote, up, down and up again', () => {
    fc.assert(
      fc.property(configs, configs, (newer, older) => {
        const state = sections()
        for (const key of ['upstreams', 'listeners', 'settings'] as const) {
          const stored = state[key] as Stored<StoredEntry>
          stored.become(messages(newer, { generation: 1, created: 1 })[key])
          stored.writtenByNewer()
          const before = new Map(stored.bytes)
          stored.become(messages(older, { generation: 2, created: 2 })[key])
          for (const [entry, bytes] of stored.bytes) {
            if (!before.has(entry)) continue
            expect(Buffer.from(bytes.subarray(-UNKNOWN.length))).toEqual(Buffer.from(UNKNOWN))
          }
          // Fields that the newer one says again are as they were, but for those that the older one did not have.
          const again = stored.become(messages(newer, { generation: 3, created: 3 })[key])
          for (const [entry, bytes] of before) {
            if (!again.includes(entry)) expect(stored.bytes.get(entry)).toEqual(bytes)
          }
        }
      }),
      { seed: 52, numRuns: perLane(30, 150) },
    )
  })

  it('hold upstreams that can be used again', () => {
    fc.assert(
      fc.property(upstreams, given => {
        for (const each of given) {
          const { codec } = upstreamsSection
          const stored = codec.decode(codec.encode(upstreamMessage(each, { generation: 1, created: 1 })))
          expect(upstreamOf(each.name, stored)).toEqual(each)
        }
      }),
      { seed: 53, numRuns: perLane(40, 200) },
    )
  })
})

describe('a stored entry', () => {
  const stamp = { generation: 1, created: 1 }

  it('has the fields that 0.4.0 wrote, for the same listener and upstream', () => {
    const { listeners, upstreams } = config(EXAMPLE)
    const fieldsOf = (bytes: Uint8Array) => {
      const fields: number[] = []
      for (const reader = protobufjs.Reader.create(bytes); reader.pos < reader.len; ) {
        const tag = reader.uint32()
        fields.push(tag >>> 3)
        reader.skipType(tag & 7)
      }
      return fields
    }
    const { codec } = listenersSection
    expect(fieldsOf(codec.encode(listenerMessage(listeners[0]!, stamp)))).toEqual([1, 14, 15])
    const [upstream] = upstreams
    expect(fieldsOf(upstreamsSection.codec.encode(upstreamMessage(upstream!, stamp)))).toEqual([
      1, 1, 2, 3, 4, 5, 6, 7, 8, 14, 15,
    ])
  })

  it('goes when it is unwanted, unless it is needed', () => {
    const state = sections().upstreams
    const [one] = config(`${LEAST}upstreams: { one: { servers: ["http://a:1"] } }`).upstreams
    const message = upstreamMessage(one!, stamp)
    state.become(
      new Map([
        ['one', message],
        ['kept', message],
        ['gone', message],
      ]),
    )
    expect(state.become(new Map([['one', message]]))).toEqual(['gone'])
    expect([...state.keys()]).toEqual(['one', 'kept'])
  })

  it('of a setting with a value of a kind that only newer versions know is replaced, with what they say beside it', () => {
    const state = sections().settings
    // Field 5, a text, and field 40, a number.
    state.bytes.set('accessLog', Uint8Array.of(0x2a, 1, 0x78, 0xc0, 0x02, 9))
    const wanted = settingMessages(config(`${LEAST}accessLog: true\n`), stamp)
    expect(state.become(new Map([['accessLog', wanted.get('accessLog')!]]))).toEqual(['accessLog'])
    const { flag, $unknowns } = state.get('accessLog')!
    expect([flag, $unknowns]).toEqual([true, [Uint8Array.of(0xc0, 0x02, 9)].map(Buffer.from)])
  })

  it('gets a new value when it cannot be read', () => {
    const state = sections().settings
    state.bytes.set('accessLog', Uint8Array.of(0xff))
    const wanted = settingMessages(config(LEAST), stamp)
    expect(state.become(wanted)).toContain('accessLog')
    expect(state.get('accessLog')!.flag).toBe(false)
  })

  it('of an upstream that this version cannot use is none', () => {
    const [one] = config(`${LEAST}upstreams: { one: { servers: ["http://a:1"] } }`).upstreams
    const message = upstreamMessage(one!, stamp)
    const check = { intervalMs: 1, timeoutMs: 1, rise: 1, fall: 1 }
    expect(upstreamOf('one', { ...message, check: Check.create(check) })?.check).toMatchObject({ rise: 1 })
    for (const wrong of [
      { check: Check.create({ ...check, intervalMs: 0 }) },
      { check: Check.create({ ...check, fall: 0 }) },
      { servers: ['quic://a:1'] },
      { servers: [] },
      { failures: 0 },
      { connectTimeoutMs: 0 },
      { coolDownMs: 2 ** 31 },
    ]) {
      expect(upstreamOf('one', { ...message, ...wrong })).toBeNull()
    }
  })

  it('has every setting, and no list of upstreams, listeners or routes', () => {
    const text = `${LEAST}forwarded: { headers: both, trust: ["10.0.0.0/8"] }\nlimits: { body: 1g }\n`
    const settings = settingMessages(config(text), stamp)
    const values = Object.fromEntries(
      [...settings].map(([key, { number, flag, text, list }]) => [
        key,
        number ?? flag ?? text ?? list?.items ?? null,
      ]),
    )
    expect(values).toMatchObject({
      service: 'edge',
      control: '/run/edge/upgrade.sock',
      instanceHeader: null,
      'drain.timeout': 30_000,
      'upgrade.probation': 10_000,
      'timeouts.idle': 60_000,
      'timeouts.request': null,
      'limits.body': 2 ** 30,
      accessLog: false,
      'forwarded.headers': 'both',
      'forwarded.trust': ['10.0.0.0/8'],
    })
    expect(Object.keys(values).filter(key => /^(routes|listeners|upstreams|tls\.cert)/.test(key))).toEqual([])
  })
})
