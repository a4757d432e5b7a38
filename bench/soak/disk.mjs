// @ts-check
// npm run soak -- disk: power cuts behind every call of a process that keeps a state file, with 200 fates (--fates) of what was not synced, and an error of
// every call. The same as test/e2e/state-power-cuts.test.ts with more of both, and a seed of its own (--seed).

import { parseArgs } from 'node:util'
import { runTest } from './run-test.mjs'

const { values: flags } = parseArgs({
  options: {
    fates: { type: 'string', default: '200' },
    seed: { type: 'string', default: `${Date.now() % 1_000_000}` },
    json: { type: 'string' },
  },
})
console.log(`seed ${flags.seed}`)
runTest('test/e2e/state-power-cuts.test.ts', {
  FDB_DISK_FATES: flags.fates,
  FDB_DISK_SEED: flags.seed,
  FDB_DISK_ERRORS: 'all',
})
