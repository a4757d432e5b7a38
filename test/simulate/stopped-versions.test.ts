import { expect, it } from 'vitest'
import { load } from './globals.js'
import { censusOf, STATE } from './points/descriptors.js'
import { ServiceRun } from './points/service.js'
import { afterMicrotasks } from './run-seed.js'
import { phaseOf } from './scenario/verdict.js'

const STOP_MS = 120_000
const SOON_MS = 300
/** A daemon waits so long for a version that has the right again. */
const TURN_MS = 30_000

it('a daemon makes no segments while both versions of a probation are stopped; then one of them serves', async () => {
  const code = await load()
  const counts: number[] = []
  let isServing = false
  const run = new ServiceRun(
    code,
    {
      hosting: 'daemon',
      probation: 3_000,
      during({ daemons, give, versions, world }) {
        let hasCommitted = false
        run.onCommit = () => {
          hasCommitted = true
        }
        give.call(run, 'upgrade')
        world.run(() => hasCommitted, TURN_MS)
        world.run(() => false, SOON_MS)
        const both = ['A', 'B'].map(name => versions.get(name)!)
        for (const { p } of both) world.stop(p, STOP_MS)
        for (let waited = 0; waited < STOP_MS; waited += TURN_MS) {
          world.run(() => false, TURN_MS)
          counts.push(censusOf(daemons!.living[0]!).get(STATE) ?? 0)
        }
        world.run(() => false, TURN_MS)
        isServing = both.some(version => phaseOf(version) === 'serving')
      },
    },
    null,
    false,
  )
  await afterMicrotasks(() => run.run(null))
  expect([isServing, counts.at(-2)! - counts[0]!]).toEqual([true, 0])
})
