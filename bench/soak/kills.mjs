// @ts-check
// npm run soak -- kills: the main process of a unit is killed 20 times (--kills) by `systemctl kill -s KILL`, under 1,000 connects a second (--rate), in a
// machine of its own. No connect may be refused, and every acknowledged change must be there. The same as test/e2e/systemd-shop.test.ts with more of both, and the
// same needs (npm run unpack-nspawn).

import { parseArgs } from 'node:util'
import { runTest } from './run-test.mjs'

const { values: flags } = parseArgs({
  options: {
    kills: { type: 'string', default: '20' },
    rate: { type: 'string', default: '1000' },
    json: { type: 'string' },
  },
})
runTest('test/e2e/systemd-shop.test.ts', { FD_BROKER_KILLS: flags.kills, FD_BROKER_KILLS_RATE: flags.rate })
