import { room } from '../seed.js'

const BALANCE = ['property/proxy-balance', 'unit/proxy/upstreams']
const NAMES = ['unit/proxy/names', 'e2e/proxy-names']
const POOLS = ['e2e/relay-pools', 'e2e/proxy-names']

export const proxy = room(
  'proxy',
  ['unit/proxy/table', 'unit/proxy/host', 'property/proxy-table'],
  [
    ['proxy/upstreams/balance.ts', '!isUp(server)).length', 'isUp(server)).length', ...BALANCE],
    [
      'proxy/names/names.ts',
      'this.pending === null && now >= this.validUntil',
      'now >= this.validUntil',
      ...NAMES,
    ],
    ['proxy/names/names.ts', "if (answer.kind === 'nothing') this.#setAddresses([])", '', ...NAMES],
    ['proxy/names/names.ts', 'this.#next++ % addresses.length', '0', ...NAMES],
    ['proxy/names/names.ts', 'const MAX_TTL_MS = 3_600_000', 'const MAX_TTL_MS = 36_000_000', ...NAMES],
    ['proxy/names/name-servers.ts', 'if (changed) this.#resolver = null', '', ...NAMES],
    ['proxy/names/name-servers.ts', '>= dots', '> dots', ...NAMES],
    [
      'relay/upstream-pools.ts',
      'named === undefined || named.current(last.stream.remoteAddress)',
      'named !== null',
      ...POOLS,
    ],
    ['relay/upstream-pools.ts', 'since - stream.since >= ageMs', 'since - stream.since < 0', ...POOLS],
    ['relay/upstream-pools.ts', 'old || this.retired || this.#idle', 'old || this.#idle', ...POOLS],
    [
      'relay/client-tally.ts',
      'const NETWORK_GROUPS = 4',
      'const NETWORK_GROUPS = 5',
      'unit/relay/client-tally',
    ],
    ['proxy/upstreams/balance.ts', 'health.until <= now', 'health.until >= now', ...BALANCE],
    ['proxy/upstreams/balance.ts', "{ kind: 'down', until: now } : health", 'health : health', ...BALANCE],
    ['proxy/upstreams/balance.ts', 'next: next < servers.length ? next : 0,', 'next,', ...BALANCE],
    ['proxy/upstreams/balance.ts', '(isNeverOut(rules) ? undefined : health) ?? UP', 'UP', ...BALANCE],
    [
      'proxy/upstreams/upstream.ts',
      'if (balancer === null || tried.length - full > this.#retry) return null',
      'if (balancer === null) return null',
      ...BALANCE,
      'e2e/proxy-serves',
    ],
    [
      'proxy/upstreams/upstreams.ts',
      'if (!this.names.has(name) && !needed.has(name)) upstream.configure(null)',
      'if (!this.names.has(name)) upstream.configure(null)',
      ...BALANCE,
    ],
    [
      'proxy/health/health.ts',
      "if (judge.hear(why) === 'ready' || !needed()) passed.abort()",
      'if (why === null || !needed()) passed.abort()',
      'unit/proxy/health',
      'unit/probing/probing',
      'e2e/proxy-health',
    ],
    [
      'proxy/health/health.ts',
      '    this.#serving = servingJudge()\n    this.#disposed.abort()',
      '    this.#disposed.abort()',
      'unit/proxy/health',
      'unit/probing/probing',
      'e2e/proxy-health',
    ],
    [
      'probing/health-check.ts',
      'withinLimit(signal, timeoutMs, async',
      'withinLimit(signal, timeoutMs * 100, async',
      'unit/probing/probing',
      'property/probing',
      'unit/wire/deadlines',
    ],
    [
      'proxy/routes/path-tree.ts',
      'segment.length === to - from && path.startsWith(segment, from)',
      'path.startsWith(segment, from)',
    ],
    ['proxy/routes/path-tree.ts', 'if (value !== undefined) best = value', 'best = value'],
    ['proxy/routes/table.ts', 'if (root.empty) this.#drop(host)', ''],
    [
      'proxy/routes/table.ts',
      'return this.#shadowed.delete(routeKey({ origin, host, path }))',
      'return false',
    ],
    ['proxy/routes/host.ts', 'if (end > 1 && host.charCodeAt(end - 1) === DOT) end--', ''],
    [
      'proxy/routes/host.ts',
      'ascii.length > MAX_CHARACTERS - (wildcard ? 2 : 0)',
      'ascii.length > MAX_CHARACTERS',
    ],
  ],
)
