import http from 'node:http'
import { describe, expect, it } from 'vitest'
import { bindListener, parseListenerSpec } from '../../../src/listeners/index.js'
import { freePort } from '../../processes/scene.js'
import { until } from '../../processes/until.js'
import { versionsAt } from '../../processes/versions-at-address.js'

const LONG = { probation: 60_000, heartbeat: 20, silence: 5_000 }
const SHORT = { ...LONG, probation: 50 }

async function service(hosting: 'embedded' | 'daemon', upgrade = LONG) {
  const port = await freePort()
  const address = () => ({ spec: `tcp://127.0.0.1:${port}`, target: { host: '127.0.0.1', port } })
  return { ...(await versionsAt({ hosting, upgrade, address })), port }
}

describe.each(['embedded', 'daemon'] as const)(
  'a listener that is closed and opened again, %s hosting,',
  hosting => {
    it('serves again while the next version has its socket, and goes to that version', async () => {
      const { listens, two, ask } = await service(hosting, SHORT)
      const { first, second } = await two()
      first.unlisten('web')
      await listens(first, 'first again')
      expect(await ask()).toBe('first again')
      await second.ready()
      await until('the first version has left', () => first.phase === 'gone')
      expect(await ask()).toBe('second')
    })

    it('serves again in the probation, while the previous version has its socket', async () => {
      const { listens, two, ask } = await service(hosting)
      const { first, second } = await two()
      await second.ready()
      await until('the first version stands by', () => first.phase === 'standby')
      second.unlisten('web')
      await listens(second, 'second again', 'other')
      expect(await ask()).toBe('second again')
      await second.close()
      await until('the first version serves', () => first.phase === 'serving')
      expect(await ask()).toBe('first')
    })

    it('may move to another address and back in the probation', async () => {
      const { port, two, ask } = await service(hosting)
      const { second } = await two()
      await second.ready()
      await second.relisten('web', 'tcp://127.0.0.1:0')
      const back = await second.relisten('web', `tcp://127.0.0.1:${port}`)
      back.serve(http.createServer((_request, response) => response.end('second again')))
      expect(await ask()).toBe('second again')
    })

    it('leaves the address that a version bound before it was ready', async () => {
      const { two } = await service(hosting)
      const { second } = await two()
      const address = `tcp://127.0.0.1:${await freePort()}`
      const left = await second.listen('more', address)
      left.serve(http.createServer())
      const kept = await second.relisten('more', 'tcp://127.0.0.1:0')
      kept.serve(http.createServer())
      bindListener(parseListenerSpec(address)).close()
      await second.ready()
      bindListener(parseListenerSpec(address)).close()
      expect(second.status().listeners.map(({ address }) => address)).not.toContain(address)
    })

    it('binds its address again when the next version has left', async () => {
      const { listens, two, ask } = await service(hosting, SHORT)
      const { first, second } = await two()
      first.unlisten('web')
      await second.close()
      await until('the address is free', async () => {
        await listens(first, 'first again').catch(() => {})
        return first.status().listeners.length === 1
      })
      expect(await ask()).toBe('first again')
    })
  },
)
