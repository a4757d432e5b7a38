import { room } from '../seed.js'

const CHUNKED = ['unit/http1/chunked', 'unit/http1/limits', 'unit/http1/records']

export const http1 = room(
  'http1',
  [
    'unit/http1/request-line',
    'unit/http1/smuggling',
    'unit/http1/fields',
    'unit/http1/framing',
    'unit/http1/limits',
  ],
  [
    ['http1/chunked.ts', '++state.count > MAX_DIGITS', 'state.count > MAX_DIGITS', ...CHUNKED],
    [
      'http1/chunked.ts',
      "if (state.count === 0) throw new Http1Refusal('chunk-size', at, state.side)\n",
      '',
      ...CHUNKED,
    ],
    [
      'http1/chunked.ts',
      "if (byte !== CR) throw new Http1Refusal('chunk-ending', at, state.side)",
      '',
      ...CHUNKED,
    ],
    [
      'http1/chunked.ts',
      '++state.count > MAX_TRAILER_BYTES',
      '++state.count > 100 * MAX_TRAILER_BYTES',
      ...CHUNKED,
    ],
    [
      'http1/chunked.ts',
      "if (FORBIDDEN_HASHES.has(state.hash)) throw new Http1Refusal('trailer-forbidden', at, state.side)",
      '',
      ...CHUNKED,
    ],
    [
      'http1/framing.ts',
      'taken = Math.min(this.left, taken)',
      'taken = Math.max(this.left, taken)',
      'unit/http1/framing',
    ],
    [
      'http1/request-head.ts',
      "if (second >= 0) throw requestRefusal('host-repeated', this.fields.lineStart(second))",
      '',
    ],
    [
      'http1/request-head.ts',
      'parsed.authority && host && !sameAuthority(parsed.authority, host, parsed.port)',
      'parsed.authority && host && parsed.authority.host !== host.host',
    ],
    ['http1/request-head.ts', 'this.#checkExpectation()\n', '', 'unit/http1/connection'],
    [
      'http1/response-head.ts',
      "status < 200 || status === 204 || status === 304 || request.method === 'HEAD'",
      "status < 200 || status === 204 || request.method === 'HEAD'",
      'unit/http1/responses',
      'unit/http1/framing',
    ],
    [
      'http1/response-head.ts',
      '!request.upgrade || this.upgrade === undefined',
      'this.upgrade === undefined',
      'unit/http1/responses',
      'unit/http1/framing',
    ],
    ['http1/head-reader.ts', 'if (bytes >= limit)', 'if (bytes > limit)'],
    [
      'http1/request-head.ts',
      '!PORT.test(digits) || port > 65535',
      '!PORT.test(digits)',
      'unit/http1/request-line',
      'unit/http1/fields',
    ],
    [
      'http1/known-values.ts',
      'if (words[i] !== wordAt(bytes, view, start + 4 * i)) return false',
      'if (words[i] === undefined) return false',
      'unit/http1/known-values',
    ],
    [
      'http1/bytes.ts',
      'bytes === current && currentView !== null',
      'currentView !== null',
      'unit/http1/words',
    ],
  ],
)
