import { expect, it } from 'vitest'
import type { App } from '../processes/app.js'
import { makeCertificate } from '../processes/certificate.js'
import { Http2Client } from '../processes/http2-client.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const SCHEMES = { h2c: 'http', h2: 'https' }

for (const server of ['h2c', 'h2'] as const) {
  it(`no request of a busy HTTP/2 client (${server}) fails in an upgrade and a rollback`, async () => {
    const port = await freePort()
    const scene = Scene.open({ upgrade: { probation: 120_000, ready: 60_000 } })
    const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}`, server }]
    const config = { ...makeCertificate(scene), listeners }
    const first = await scene.serve(config)
    const client = new Http2Client(`${SCHEMES[server]}://127.0.0.1:${port}`, { streams: 40, path: '/whoami' })
    const answersBy = async (app: App) => {
      const before = client.answersBy(app.pid)
      await until(
        '200 answers',
        () => client.answersBy(app.pid) > before + 200,
        60_000,
        () => client.counts,
      )
    }
    await answersBy(first)
    const second = await scene.serve(config)
    await answersBy(second)
    await scene.rollback()
    await answersBy(first)
    const { answered, unsent: _, ...losses } = await client.end()
    expect(losses).toEqual({ failed: [], brokenSessions: [] })
    expect(answered).toBeGreaterThan(600)
  })
}
