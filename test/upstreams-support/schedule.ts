import type { ProxyConfig } from '../../src/proxy/config/schema.js'
import { config, LEAST } from '../fixtures/proxy-config.js'
import fc from '../lanes/generated.js'

export const SERVERS = [1, 2, 3, 4].map(n => `http://10.0.0.${n}:80`)
export const EDGES = 2

/** The keys of the upstream, as its document has them. */
export interface Settings {
  /** Which of {@link SERVERS} the file has. */
  readonly servers: readonly number[]
  /** Which of these are backup servers. */
  readonly backups: readonly number[]
  readonly balance: string
  readonly sticky: boolean
  /** Null stands for `off`. */
  readonly connections: number | null
  readonly queue: { readonly requests: number; readonly timeout: number } | null
  readonly retry: number
  readonly resend: number
  readonly failures: number | null
  readonly errors: number | null
  readonly coolDown: number
  readonly kept: number
  readonly idle: number
  readonly age: number | null
  readonly connect: number
  readonly response: number
  readonly check: boolean
  readonly slowStart: boolean
  readonly proxyProtocol: boolean
}

/** `errs`: answers with 500. */
export type ServerMode = 'up' | 'refuses' | 'silent' | 'resets' | 'closes' | 'hangs' | 'errs'

export type Act =
  | {
      readonly kind: 'client'
      readonly edge: number
      /** One after the other, over one connection. */
      readonly requests: number
      readonly post: boolean
      /** How long the server takes. */
      readonly answerMs: number
      /** The server closes the connection after its answer. */
      readonly last: boolean
      /** After this time the client leaves; null: it does not. */
      readonly patience: number | null
      readonly leaves: 'FIN' | 'RST'
      /** The route changes the request. */
      readonly changed: boolean
      readonly cookie: number | null
    }
  | { readonly kind: 'server'; readonly server: number; readonly mode: ServerMode }
  | {
      readonly kind: 'drop'
      readonly server: number
      readonly how: 'FIN' | 'RST'
      readonly idleOnly: boolean
    }
  | { readonly kind: 'reload'; readonly change: Partial<Settings>; readonly lag: number }
  | {
      readonly kind: 'operator'
      readonly server: number
      readonly order: 'drain' | 'undrain' | 'add' | 'remove' | 'weight'
      readonly lag: number
    }
  | { readonly kind: 'check'; readonly server: number; readonly up: boolean; readonly lag: number }
  | {
      readonly kind: 'shortage'
      readonly edge: number
      readonly code: 'EMFILE' | 'EADDRNOTAVAIL'
      readonly ms: number
    }
  | { readonly kind: 'none' }

export interface Schedule {
  readonly seed: number
  readonly edges: number
  readonly settings: Settings
  /** Each after so many milliseconds. */
  readonly acts: readonly (readonly [after: number, act: Act])[]
}

const connections = fc.oneof(
  { arbitrary: fc.integer({ min: 1, max: 3 }), weight: 5 },
  { arbitrary: fc.constant(null), weight: 1 },
)
const queue = fc.oneof(
  {
    arbitrary: fc.record({ requests: fc.constantFrom(50, 1, 3), timeout: fc.constantFrom(600, 40, 200) }),
    weight: 3,
  },
  { arbitrary: fc.constant(null), weight: 1 },
)
const FIELDS: { readonly [K in keyof Settings]: fc.Arbitrary<Settings[K]> } = {
  servers: fc.subarray([0, 1, 2, 3], { minLength: 1 }),
  backups: fc.oneof(
    { arbitrary: fc.constant([]), weight: 2 },
    { arbitrary: fc.subarray([0, 1, 2, 3], { minLength: 1, maxLength: 2 }), weight: 1 },
  ),
  balance: fc.constantFrom(
    'round-robin',
    'round-robin',
    'random',
    'two-choices',
    'least-connections',
    'hash:address',
    'hash:cookie:edge',
  ),
  sticky: fc.nat(3).map(n => n === 3),
  connections,
  queue,
  retry: fc.constantFrom(2, 0, 1, 10),
  resend: fc.constantFrom(20, 0, 100),
  failures: fc.constantFrom(3, 1, 2, null),
  errors: fc.constantFrom(null, null, 1, 2),
  coolDown: fc.constantFrom(1000, 60, 200),
  kept: fc.constantFrom(4096, 0, 1),
  idle: fc.constantFrom(4000, 20, 100),
  age: fc.constantFrom(null, 50),
  connect: fc.constantFrom(100, 30),
  response: fc.constantFrom(300, 100),
  check: fc.boolean(),
  slowStart: fc.nat(3).map(n => n === 3),
  proxyProtocol: fc.nat(5).map(n => n === 5),
}

const server = fc.nat(SERVERS.length - 1)
const lag = fc.constantFrom(0, 0, 1, 7)
const rarely = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: null, freq: 3 })

const client = fc.record({
  kind: fc.constant('client' as const),
  edge: fc.nat(EDGES - 1),
  requests: fc.constantFrom(1, 1, 1, 2, 3),
  post: fc.nat(3).map(n => n === 3),
  answerMs: fc.oneof(fc.constantFrom(1, 5), fc.nat(120)),
  last: fc.nat(5).map(n => n === 5),
  patience: fc.option(fc.nat(200), { nil: null, freq: 5 }).map(n => (n === null || n % 5 > 0 ? null : n)),
  leaves: fc.constantFrom('FIN' as const, 'RST' as const),
  changed: fc.nat(3).map(n => n === 3),
  cookie: rarely(server),
})
const act: fc.Arbitrary<Act> = fc.oneof(
  { arbitrary: client, weight: 14 },
  {
    arbitrary: fc.record({
      kind: fc.constant('server' as const),
      server,
      mode: fc.constantFrom<ServerMode[]>(
        'up',
        'up',
        'refuses',
        'silent',
        'resets',
        'closes',
        'hangs',
        'errs',
      ),
    }),
    weight: 4,
  },
  {
    arbitrary: fc.record({
      kind: fc.constant('drop' as const),
      server,
      how: fc.constantFrom('FIN' as const, 'RST' as const),
      idleOnly: fc.boolean(),
    }),
    weight: 1,
  },
  {
    arbitrary: fc.record({
      kind: fc.constant('reload' as const),
      change: fc.record(FIELDS, { requiredKeys: [] }),
      lag,
    }),
    weight: 1,
  },
  {
    arbitrary: fc.record({
      kind: fc.constant('reload' as const),
      change: fc.oneof(
        fc.record({ connections }),
        fc.record({ queue }),
        fc.record({ servers: FIELDS.servers }),
      ),
      lag,
    }),
    weight: 2,
  },
  {
    arbitrary: fc.record({
      kind: fc.constant('operator' as const),
      server,
      order: fc.constantFrom(
        'drain' as const,
        'undrain' as const,
        'add' as const,
        'remove' as const,
        'weight' as const,
      ),
      lag,
    }),
    weight: 2,
  },
  { arbitrary: fc.record({ kind: fc.constant('check' as const), server, up: fc.boolean(), lag }), weight: 1 },
  {
    arbitrary: fc.record({
      kind: fc.constant('shortage' as const),
      edge: fc.nat(EDGES - 1),
      code: fc.constantFrom('EMFILE' as const, 'EADDRNOTAVAIL' as const),
      ms: fc.nat(30),
    }),
    weight: 1,
  },
  { arbitrary: fc.record({ kind: fc.constant('none' as const) }), weight: 1 },
)
const after = fc.oneof(
  { arbitrary: fc.constantFrom(0, 0, 1, 2), weight: 4 },
  { arbitrary: fc.nat(30), weight: 2 },
  { arbitrary: fc.nat(400), weight: 1 },
)

export const schedules: fc.Arbitrary<Schedule> = fc.record({
  seed: fc.nat(1_000_000),
  edges: fc.constantFrom(1, 1, EDGES),
  settings: fc.record(FIELDS),
  acts: fc.array(fc.tuple(after, act), { maxLength: 60, size: 'max' }),
})

const seen = new Map<string, ProxyConfig>()

/** Returns the checked configuration. */
export function configOf(settings: Settings): ProxyConfig {
  const { connections, queue, failures, errors, kept, idle, age, check } = settings
  const off = (value: unknown, unit = '') => (value === null ? 'off' : `${value}${unit}`)
  const app = {
    servers: settings.servers.map(n =>
      settings.backups.includes(n) ? { address: SERVERS[n]!, backup: true } : SERVERS[n]!,
    ),
    balance: settings.balance,
    sticky: settings.sticky ? 'edge' : 'off',
    ...(connections !== null && {
      connections,
      queue: queue === null ? 'off' : { requests: queue.requests, timeout: `${queue.timeout}ms` },
    }),
    retry: settings.retry,
    resend: settings.resend,
    health: { failures: failures ?? 'off', errors: errors ?? 'off', coolDown: `${settings.coolDown}ms` },
    keepAlive: { connections: kept, idle: `${idle}ms`, age: off(age, 'ms') },
    timeouts: { connect: `${settings.connect}ms`, response: `${settings.response}ms` },
    ...(check && { check: 'tcp', slowStart: settings.slowStart ? '500ms' : 'off' }),
    proxyProtocol: settings.proxyProtocol ? 'v1' : 'off',
  }
  const text = `${LEAST}upstreams: ${JSON.stringify({ app })}\nroutes: [{ host: "*", upstream: app }]\n`
  let found = seen.get(text)
  if (found === undefined) {
    found = config(text)
    seen.set(text, found)
  }
  return found
}

/** The settings that have an effect. */
export function inForce(settings: Settings): Settings {
  const queue = settings.connections === null ? null : settings.queue
  return { ...settings, queue, slowStart: settings.check && settings.slowStart }
}
