// @ts-check
// npm run soak -- tls: 2,000 HTTPS connections that are kept, 500 WebSockets and 100 event streams over TLS, and 20 + 20 transfers of 50 MB, beside
// clients in Python and Go, curl and Chromium, through 20 upgrades of Node servers, then of the proxy. The transfers go on until the last upgrade. No connection
// may be closed, no byte lost, and each old process must be empty within 2 s. The same as test/e2e/tls-scale.long.test.ts with more of each. On a busy machine give --empty-ms more.

import { parseArgs } from 'node:util'
import { runTest } from './run-test.mjs'

const { values: flags } = parseArgs({
  options: {
    upgrades: { type: 'string', default: '20' },
    kept: { type: 'string', default: '2000' },
    sockets: { type: 'string', default: '500' },
    streams: { type: 'string', default: '100' },
    transfers: { type: 'string', default: '20' },
    'tick-ms': { type: 'string', default: '500' },
    'ask-ms': { type: 'string', default: '25' },
    'part-ms': { type: 'string', default: '200' },
    'empty-ms': { type: 'string', default: '2000' },
    json: { type: 'string' },
  },
})
const sizes = {
  upgrades: Number(flags.upgrades),
  kept: Number(flags.kept),
  sockets: Number(flags.sockets),
  streams: Number(flags.streams),
  transfers: Number(flags.transfers),
  tickMs: Number(flags['tick-ms']),
  askMs: Number(flags['ask-ms']),
  partMs: Number(flags['part-ms']),
  emptyMs: Number(flags['empty-ms']),
}
runTest('test/e2e/tls-scale.long.test.ts', {
  FD_BROKER_LANE: 'nightly',
  FD_BROKER_TLS_SIZES: JSON.stringify(sizes),
})
