import { room } from '../seed.js'

const TRANSFER = ['unit/relay/connections', 'unit/relay/record-format', 'e2e/relay-records']
const POOLS = ['unit/relay/connections', 'e2e/relay-pools']

export const relay = room(
  'relay',
  ['unit/relay/connections', 'unit/relay/response-plan', 'unit/relay/forwarded'],
  [
    ['relay/move-connection.ts', 'concat([early, detached.unread])', 'early', ...TRANSFER],
    [
      'relay/move-connection.ts',
      'early.length === 0 ? detached.unread : concat([early, detached.unread])',
      'detached.unread',
      ...TRANSFER,
    ],
    [
      'relay/move-connection.ts',
      '    upstreamDup?.close()\n    throw error',
      '    throw error',
      ...TRANSFER,
      'e2e/proxy-descriptors',
    ],
    [
      'relay/move-connection.ts',
      'if (record.endedClient) client.end()',
      '',
      ...TRANSFER,
      'e2e/relay-records',
    ],
    [
      'relay/timer-wheel.ts',
      'if (entry.deadline > over) this.#insert(entry)\n      else entry.onDeadline()',
      'entry.onDeadline()',
      'unit/relay/timer-wheel',
    ],
    ['relay/timer-wheel.ts', 'if (this.#count > 0) return\n', '', 'unit/relay/timer-wheel'],
    [
      'relay/timer-wheel.ts',
      'entry.deadline - this.tickMs - this.now',
      'entry.deadline - this.now',
      'unit/relay/timer-wheel',
    ],
    ['relay/upstream-pools.ts', 'stream.setReading(true)', '', ...POOLS],
    ['relay/upstream-pools.ts', 'now - last.since >= idleMs', 'false', ...POOLS],
    ['relay/upstream-pools.ts', 'if (this.#idle.length > 0) this.#wheel.arm(this, next - now)', '', ...POOLS],
    ['relay/upstream-pools.ts', 'if (at >= 0) this.#idle.splice(at, 1)', '', ...POOLS],
    [
      'relay/client-watch.ts',
      "if (state !== 'none' && this.#watched.has(connection)) connection.onHangup(state)",
      "if (state !== 'none') connection.onHangup(state)",
      'unit/relay/connections',
      'e2e/relay-gone-clients',
    ],
    [
      'relay/server-response.ts',
      'if (end < to) facts.reusable = false\n    exchange.finish()',
      'exchange.finish()',
      'e2e/relay-smuggling',
      'e2e/relay-broken-answers',
    ],
    [
      'relay/server-response.ts',
      'if (!facts.responseBody!.mayEnd) {',
      'if (facts.responseBody === null) {',
      'e2e/relay-broken-answers',
      'e2e/relay-failures',
    ],
    [
      'relay/tunnel.ts',
      'if (this.ended && facts.frames === null) return\n',
      '',
      'e2e/relay-tcp',
      'e2e/relay-leaving',
      'unit/relay/connections',
    ],
    ['relay/field-rules.ts', '      known.authority === authority &&\n', '', 'unit/relay/forwarded'],
  ],
)
