import { describe, expect, it } from 'vitest'
import { Scene } from '../processes/scene.js'
import { samplesOf, sumOf } from '../processes/scraping.js'
import { until } from '../processes/until.js'

describe('member.metrics()', () => {
  it('goes on in the next version and after a rollback, with each handoff counted once', async () => {
    const scene = Scene.open({ upgrade: { probation: 60_000 } })
    const first = await scene.serve()
    const metricsOf = async (app: typeof first) => samplesOf(await app.order<string>('metrics'))
    await metricsOf(first)
    const second = await scene.serve()
    expect(sumOf(await metricsOf(second), 'fdbroker_scrapes_total')).toBe(2)
    await scene.rollback()
    const last = await until('the reverted handoff is counted', async () => {
      const samples = await metricsOf(first)
      return sumOf(samples, 'fdbroker_handoffs_total') > 0 ? samples : undefined
    })
    expect(sumOf(last, 'fdbroker_handoffs_total', 'outcome="reverted"')).toBe(1)
    expect(sumOf(last, 'fdbroker_handoff_phase_seconds_count', 'phase="probation"')).toBe(1)
    expect(sumOf(last, 'fdbroker_scrapes_total')).toBeGreaterThanOrEqual(3)
    expect(sumOf(last, 'fdbroker_generation')).toBe(1)
  })
})
