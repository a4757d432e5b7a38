import { room } from '../seed.js'

const KEYS = ['unit/tls/ticket-keys', 'unit/tls/forgotten-keys', 'e2e/tls-tickets']

export const tls = room('tls', KEYS, [
  [
    'tls/ticket-keys.ts',
    "if (op === 'put' && key === name) this.#applyStored()",
    "if (op === 'put') this.#applyStored()",
  ],
  [
    'tls/ticket-keys.ts',
    'Math.abs(Date.now() - this.#current.created)',
    'Date.now() - this.#current.created',
  ],
  [
    'tls/ticket-keys.ts',
    "this.#member.phase === 'serving' && this.#member.follows === null",
    "this.#member.phase === 'serving'",
  ],
  ['tls/ticket-keys.ts', "this.#member.phase === 'serving' && ", ''],
  [
    'tls/ticket-keys.ts',
    'this.#timer = setTimeout(() => this.#rotateWhenDue(), Math.min(this.rotateEvery, LOOK_AGAIN_MS)).unref()',
    '',
  ],
  ['tls/ticket-keys.ts', 'this.#createKeys((stored ?? this.#current).keys)', 'this.#createKeys()'],
  ['tls/ticket-keys.ts', '    clearTimeout(this.#timer)\n    this.#unsubscribe()', '    this.#unsubscribe()'],
  ['tls/ticket-keys.ts', 'secret: true', 'secret: false'],
  ['tls/ticket-server.ts', 'previous !== null && name.equals(previous.name)', 'previous !== null'],
  [
    'tls/ticket-server.ts',
    'return [2, previous.hmac, previous.aes]',
    'return [1, previous.hmac, previous.aes]',
  ],
  [
    'tls/ticket-server.ts',
    '    useTicketKeys(server, keys)\n  }\n',
    '  }\n',
    'unit/tls/revoked-clients',
    'unit/tls/ticket-keys',
    'e2e/tls-tickets',
  ],
  [
    'tls/ticket-server.ts',
    'JSON.stringify([name, requestCert, rejectUnauthorized])',
    'JSON.stringify([name])',
    'unit/tls/revoked-clients',
    'unit/tls/ticket-keys',
    'e2e/tls-tickets',
  ],
  [
    'tls/ticket-server.ts',
    "if (crl !== undefined) add(['crl', crl])",
    '',
    'unit/tls/revoked-clients',
    'unit/tls/ticket-keys',
  ],
])
