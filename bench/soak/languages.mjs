// @ts-check
// npm run soak -- languages: members in Node, Python and Go replace each other in every order, a language and itself among them, 20 times around (--rounds),
// while clients ask and change the state. No request may fail, and each must say the same of the state. The same as test/e2e/languages.test.ts with
// more rounds, and needs python3 and go.

import { parseArgs } from 'node:util'
import { runTest } from './run-test.mjs'

const { values: flags } = parseArgs({
  options: { rounds: { type: 'string', default: '20' }, json: { type: 'string' } },
})
runTest('test/e2e/languages.test.ts', { FD_BROKER_LANGUAGES_ROUNDS: flags.rounds })
