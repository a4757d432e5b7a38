import { once } from 'node:events'
import net from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { perLane } from '../lanes/lane.js'
import { startDaemon } from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const CLIENTS = 150
const LIMIT = 100

it.each(perLane(['embedded'] as const, ['embedded', 'daemon'] as const))(
  'a version that may have fewer descriptors than the one that serves has open is refused before the commit, with both numbers (%s hosting)',
  async hosting => {
    const scene = Scene.open({ hosting, upgrade: { probation: 30_000, heartbeat: 50 } })
    if (hosting === 'daemon') await startDaemon(scene)
    const port = await freePort()
    const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }]
    const first = await scene.serve({ listeners })
    let closed = 0
    const clients = Array.from({ length: CLIENTS }, () =>
      net.connect(port, '127.0.0.1').on('close', () => closed++),
    )
    onTestFinished(() => {
      for (const client of clients) client.destroy()
    })
    await Promise.all(clients.map(client => once(client, 'connect')))
    await until('all are accepted', async () => (await first.status()).connections === CLIENTS)
    const refused = await scene.start({ listeners, descriptors: LIMIT })
    const { code, message, details } = await refused.failure()
    expect(code).toBe('ERR_FDB_NO_DESCRIPTORS')
    expect(details.soft).toBe(LIMIT)
    expect(details.needed).toBeGreaterThan(CLIENTS)
    for (const number of [details.needed, LIMIT]) expect(message).toContain(` ${number}`)
    expect([await first.order('phase'), closed]).toEqual(['serving', 0])
  },
)
