import { Agent } from 'node:http'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { ask } from '../processes/client.js'
import { startDaemon } from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'
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

  it('tells by kind what has moved, and what has drained', async () => {
    const port = await freePort()
    const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}`, server: 'http' as const }]
    const scene = Scene.open({ upgrade: { probation: 200, heartbeat: 50, silence: 2_000 }, listeners })
    const agent = new Agent({ keepAlive: true })
    onTestFinished(() => agent.destroy())
    const counted = async (app: App, name: string) => {
      const samples = samplesOf(await app.order<string>('metrics'))
      return sumOf(samples, `fdbroker_connections_${name}_total`, 'kind="http"')
    }
    const first = await scene.serve()
    expect(await counted(first, 'moved')).toBe(0)
    const url = `http://127.0.0.1:${port}/whoami`
    await ask(url, { agent }).answer
    const second = await scene.serve({ drain: { move: 'off' } })
    await until('the connection has moved', async () => (await counted(second, 'moved')) === 1)
    expect(await counted(second, 'arrived')).toBe(1)
    const third = await scene.serve()
    // The second closes the connection after the answer.
    await ask(url, { agent }).answer
    await until('the connection has drained', async () => (await counted(third, 'drained')) === 1)
    expect(await counted(third, 'moved')).toBe(1)
  })

  it.runIf(NIGHTLY)(
    'counts each handoff that a daemon decides once, from the first version on, also if the daemon is killed',
    async () => {
      const upgrade = { probation: 200, heartbeat: 50, silence: 2_000 }
      const scene = Scene.open({ hosting: 'daemon', upgrade })
      const daemon = await startDaemon(scene, { upgrade })
      const countsOf = async (app: Awaited<ReturnType<typeof scene.serve>>) => {
        const samples = samplesOf(await app.order<string>('metrics'))
        const outcome = (name: string) => sumOf(samples, 'fdbroker_handoffs_total', `outcome="${name}"`)
        const offered = sumOf(samples, 'fdbroker_handoff_phase_seconds_count', 'phase="offering"')
        return [outcome('released'), outcome('reverted'), offered]
      }
      const first = await scene.serve()
      expect(await countsOf(first)).toEqual([0, 0, 0])
      const second = await scene.serve()
      await until('the second is kept', async () => (await countsOf(second))[0] === 1)
      await daemon.kill()
      await startDaemon(scene, { upgrade })
      const third = await scene.serve({ upgrade: { ...upgrade, probation: 60_000 } })
      await until('the third is kept', async () => (await countsOf(third))[0] === 2)
      await scene.serve()
      await scene.rollback()
      await until('the handoff back is counted', async () => (await countsOf(third))[1] === 1)
      expect(await countsOf(third)).toEqual([2, 1, 3])
    },
  )
})
