// @ts-check
// npm run soak -- history: clients change a state while its processes are upgraded, killed and stopped, 100 times (--rounds); their answers must be linearizable. The
// same as test/e2e/state-history.test.ts with more rounds, and a seed of its own (--seed).

import { parseArgs } from 'node:util'
import { runTest } from './run-test.mjs'

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '100' },
    seed: { type: 'string', default: `${Date.now() % 1_000_000}` },
    json: { type: 'string' },
  },
})
console.log(`seed ${flags.seed}`)
runTest('test/e2e/state-history.test.ts', { FDB_HISTORY_ROUNDS: flags.rounds, FDB_HISTORY_SEED: flags.seed })
