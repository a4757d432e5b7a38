import http from 'node:http'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join, type Member } from '../../../src/index.js'
import { bindListener, parseListenerSpec } from '../../../src/listeners/index.js'
import { startDaemon } from '../../processes/daemon.js'
import { freePort, Scene } from '../../processes/scene.js'
import { until } from '../../processes/until.js'

const LONG = { probation: 60_000, heartbeat: 20, silence: 5_000 }
const SHORT = { ...LONG, probation: 50 }

/** Versions of one service, which listen as "web" at one address. */
async function service(hosting: 'embedded' | 'daemon', upgrade = LONG) {
  const scene = Scene.open({ hosting, upgrade })
  if (hosting === 'daemon') await startDaemon(scene)
  const port = await freePort()
  const listens = async (member: Member, words: string, name = 'web') => {
    const listener = await member.listen(name, `tcp://127.0.0.1:${port}`)
    listener.serve(http.createServer((_request, response) => response.end(words)))
  }
  const version = async (): Promise<Member> => {
    const member = await join({ service: 'shop', control: scene.control, hosting, upgrade })
    onTestFinished(() => member.close({ timeout: 0, handBack: false }))
    return member
  }
  const ask = async () => {
    const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
      http.get({ host: '127.0.0.1', port, agent: false, timeout: 5_000 }, resolve).once('error', reject)
    })
    return await text(response)
  }
  return { port, listens, version, ask }
}

describe.each(['embedded', 'daemon'] as const)(
  'a listener that is closed and opened again, %s hosting,',
  hosting => {
    it('serves again while the next version has its socket, and goes to that version', async () => {
      const { listens, version, ask } = await service(hosting, SHORT)
      const first = await version()
      await listens(first, 'first')
      await first.ready()
      const second = await version()
      await listens(second, 'second')
      first.unlisten('web')
      await listens(first, 'first again')
      expect(await ask()).toBe('first again')
      await second.ready()
      await until('the first version has left', () => first.phase === 'gone')
      expect(await ask()).toBe('second')
    })

    it('serves again in the probation, while the previous version has its socket', async () => {
      const { listens, version, ask } = await service(hosting)
      const first = await version()
      await listens(first, 'first')
      await first.ready()
      const second = await version()
      await listens(second, 'second')
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
      const { port, listens, version, ask } = await service(hosting)
      const first = await version()
      await listens(first, 'first')
      await first.ready()
      const second = await version()
      await listens(second, 'second')
      await second.ready()
      await second.relisten('web', 'tcp://127.0.0.1:0')
      const back = await second.relisten('web', `tcp://127.0.0.1:${port}`)
      back.serve(http.createServer((_request, response) => response.end('second again')))
      expect(await ask()).toBe('second again')
    })

    it('leaves the address that a version bound before it was ready', async () => {
      const { listens, version } = await service(hosting)
      const first = await version()
      await listens(first, 'first')
      await first.ready()
      const second = await version()
      await listens(second, 'second')
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
      const { listens, version, ask } = await service(hosting, SHORT)
      const first = await version()
      await listens(first, 'first')
      await first.ready()
      const second = await version()
      await listens(second, 'second')
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
