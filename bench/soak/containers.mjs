// @ts-check
// npm run soak -- containers: containers whose PID 1 is the proxy, and the shop example, are upgraded 20 times under load. No request may be lost, and
// PID 1 may not end. The same as test/e2e/containers.test.ts with more upgrades (--upgrades).

import { parseArgs } from 'node:util'
import { runTest } from './run-test.mjs'

const { values: flags } = parseArgs({
  options: { upgrades: { type: 'string', default: '20' }, json: { type: 'string' } },
})
runTest('test/e2e/containers.test.ts', { FD_BROKER_CONTAINER_UPGRADES: flags.upgrades })
