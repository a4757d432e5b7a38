import { describe, expect, it } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { HealthChecker } from '../../../src/proxy/health/health.js'
import { until } from '../../processes/until.js'

const never = new AbortController().signal

/** A process whose answers are these; then the last of them for ever. */
function healthOf(answers: readonly (string | null)[], within = 5_000) {
  let asked = 0
  const question = { name: 'it', run: async () => answers[Math.min(asked++, answers.length - 1)]! }
  const config = { passes: 2, within, interval: 1, timeout: 1_000 }
  const health = new HealthChecker(config, { check: question, socket: null }, SILENT)
  return { health, asked: () => asked }
}

describe('a process that has to prove that it is well', () => {
  it('has proved it by good answers in a row only', async () => {
    const { health, asked } = healthOf([null, 'no', null, null])
    await health.waitUntilHealthy(never, () => true)
    expect(asked()).toBe(4)
  })

  it('fails when it has not in its time, with what it answered last', async () => {
    const { health } = healthOf(['no'], 50)
    await expect(health.waitUntilHealthy(never, () => true)).rejects.toMatchObject({
      code: 'ERR_FDB_UNHEALTHY',
    })
  })

  it('counts as well again once no caller asks any more', async () => {
    const { health } = healthOf(['no'])
    let needed = true
    health.watch(() => needed)
    await until('it is not well', () => health.report !== true)
    needed = false
    await until('it is well', () => health.report === true)
  })
})
