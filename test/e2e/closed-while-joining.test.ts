import { writeFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { RawClient } from '../connections-support/http-client.js'
import { NIGHTLY } from '../lanes/lane.js'
import { startDaemon } from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const TIMES = { probation: 60_000, heartbeat: 50, silence: 2_000 }

async function open(hosting: 'embedded' | 'daemon') {
  const port = await freePort()
  const scene = Scene.open({
    hosting,
    upgrade: TIMES,
    drain: { timeout: 60_000 },
    listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
  })
  if (hosting === 'daemon') await startDaemon(scene, { upgrade: TIMES })
  return { scene, port }
}

describe.each(['embedded', 'daemon'] as const)('a close() while the next version joins, %s', hosting => {
  it('hands over and moves the connections if that one gets ready, and has not ended the service', async () => {
    const { scene, port } = await open(hosting)
    const elder = await scene.serve()
    const clients = await Promise.all(Array.from({ length: 10 }, () => RawClient.to(port)))
    for (const client of clients) await client.ask('/whoami')
    const readyFile = scene.file('ready')
    const next = await scene.start({ readyFile })
    await next.says('listener')
    elder.order('close', { timeout: 20_000 }).catch(() => {})
    await until('the order has come', async () => (await elder.status()).role === 'serving')
    for (const client of clients) expect(await client.ask('/whoami')).toBe(`1,${elder.pid}\n`)
    writeFileSync(readyFile, '')
    await next.serving()
    // Not only when its time is over.
    await elder.end(10_000)
    for (const client of clients) expect(await client.ask('/whoami')).toBe(`2,${next.pid}\n`)
    expect(clients.filter(({ end }) => end !== null)).toHaveLength(0)
    expect(elder.find('retired')).toMatchObject({ why: 'replaced' })
  })

  it.runIf(NIGHTLY || hosting === 'embedded')(
    'leaves the service to that one also if its own process lives on',
    async () => {
      const { scene, port } = await open(hosting)
      const elder = await scene.serve({ keepsOrders: true })
      const next = await scene.start({ readyDelay: 1_000 })
      await next.says('listener')
      elder.order('close', { timeout: 100 }).catch(() => {})
      await next.serving()
      expect(await (await RawClient.to(port)).ask('/whoami')).toBe(`2,${next.pid}\n`)
    },
  )

  it.runIf(NIGHTLY || hosting === 'embedded')('leaves when that one gives up', async () => {
    const { scene } = await open(hosting)
    const elder = await scene.serve()
    const next = await scene.start({ readyFile: scene.file('never') })
    await next.says('listener')
    elder.order('close', { timeout: 20_000 }).catch(() => {})
    await next.kill()
    await elder.end()
    expect(elder.find('retired')).toMatchObject({ why: 'closed' })
  })
})
