import { once } from 'node:events'
import { connect as connectPlain } from 'node:net'
import { connect, type TLSSocket } from 'node:tls'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { ServiceStatus, StatusAnswer } from '../../src/operator/status-report.js'
import { perLane } from '../lanes/lane.js'
import { makeCertificate } from '../processes/certificate.js'
import { startDaemon } from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'
import { Sandbox } from './cli-processes.js'

/** A service over TLS: a connection stays in its generation. */
async function world(drain: object, hosting: 'embedded' | 'daemon' = 'embedded') {
  const port = await freePort()
  const scene = Scene.open({
    hosting,
    upgrade: { probation: 0, heartbeat: 50 },
    drain,
    listeners: [{ name: 'tls', spec: `tcp://127.0.0.1:${port}`, server: 'https' }],
  })
  Object.assign(scene.defaults, makeCertificate(scene))
  const client = async (): Promise<TLSSocket> => {
    const socket = connect({ host: '127.0.0.1', port, rejectUnauthorized: false }).resume()
    socket.on('error', () => {})
    onTestFinished(() => void socket.destroy())
    await once(socket, 'secureConnect')
    return socket
  }
  return { scene, client }
}

/** The service, as it or its daemon reports it. */
function only(answer: StatusAnswer): ServiceStatus | undefined {
  return 'services' in answer ? answer.services[0] : answer
}

const REQUEST = 'GET / HTTP/1.1\r\nHost: shop\r\n\r\n'

/** A client whose first request is answered. `asks`: it sends another request soon after each answer. */
async function httpClient(port: number, asks: boolean): Promise<{ closed: Promise<unknown> }> {
  const socket = connectPlain(port, '127.0.0.1')
  onTestFinished(() => void socket.destroy())
  socket.on('error', () => {})
  const closed = new Promise(resolve => socket.on('close', resolve))
  socket.write(REQUEST)
  await once(socket, 'data')
  socket.on('data', () => {
    if (asks) setTimeout(() => socket.write(REQUEST), 20)
  })
  if (asks) socket.write(REQUEST)
  return { closed }
}

describe('older versions that drain', () => {
  it('end with the service on fd-broker stop, which waits for them; the one that served ends last', async () => {
    const { scene, client } = await world({ timeout: 60_000, tlsTimeout: 60_000 })
    const first = await scene.serve()
    await client()
    await scene.statusWhere('it is there', ({ connections }) => connections === 1)
    const second = await scene.serve()
    await scene.statusWhere('the first one drains', ({ draining }) => draining[0]?.connections === 1)
    const sandbox = Sandbox.open()
    const stopped = await sandbox.run('stop', '--control', scene.control, '--drain', '300ms')
    expect(stopped).toEqual({
      code: 0,
      stdout: `process ${second.pid} and an older version have ended\n`,
      stderr: '',
    })
    expect([first.ended, second.ended]).toEqual([true, true])
  })

  it.each(perLane(['embedded'] as const, ['embedded', 'daemon'] as const))(
    'end with a service that is stopped while their connections move, and with these connections (%s)',
    async hosting => {
      const port = await freePort()
      const scene = Scene.open({
        hosting,
        upgrade: { probation: 60_000, heartbeat: 50 },
        drain: { timeout: 60_000, firstWave: 0, movesPerSecond: 100 },
        listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}`, server: 'http' }],
      })
      if (hosting === 'daemon') await startDaemon(scene)
      const first = await scene.serve()
      const clients = await Promise.all(Array.from({ length: 200 }, (_, i) => httpClient(port, i % 10 === 0)))
      const second = await scene.serve()
      await scene.statusWhere('connections move', answer => (only(answer)?.moves?.arrived ?? 0) > 0)
      const sandbox = Sandbox.open()
      const stopped = await sandbox.run(
        'stop',
        '--control',
        scene.control,
        '--service',
        'shop',
        '--timeout',
        '15s',
      )
      expect(stopped).toMatchObject({ code: 0, stderr: '' })
      await Promise.all([first.end(), second.end(), ...clients.map(({ closed }) => closed)])
    },
  )

  it.each(['embedded', 'daemon'] as const)(
    'close their connections, the oldest first, when there are more than drain.generations (%s)',
    async hosting => {
      const { scene, client } = await world({ timeout: 300, tlsTimeout: 600_000, generations: 1 }, hosting)
      if (hosting === 'daemon') await startDaemon(scene)
      const generations = [await scene.serve()]
      const clients = [await client()]
      const isThere = (answer: StatusAnswer) => only(answer)?.connections === 1
      await scene.statusWhere('it is there', isThere)
      generations.push(await scene.serve())
      // Until then the first one may accept a client that waits.
      await scene.statusWhere(
        'the first one leaves',
        answer => only(answer)?.draining?.[0]?.phase === 'leaving',
      )
      clients.push(await client())
      await scene.statusWhere('the second has one too', isThere)
      const cut = once(clients[0]!, 'close')
      await scene.serve()
      await cut
      await generations[0]!.end()
      expect(generations[1]!.ended).toBe(false)
      await scene.statusWhere('the second one alone drains', answer => {
        const { draining = [] } = only(answer) ?? {}
        return draining.length === 1 && draining[0]!.generation === 2 && draining[0]!.connections === 1
      })
      clients[1]!.destroy()
      await generations[1]!.end()
    },
  )

  it('stand in the status of the next daemon, which knows drain.generations too', async () => {
    const { scene, client } = await world({ timeout: 300, tlsTimeout: 600_000, generations: 1 }, 'daemon')
    const daemon = await startDaemon(scene)
    const first = await scene.serve()
    const held = await client()
    await scene.statusWhere('it is there', answer => only(answer)?.connections === 1)
    await scene.serve()
    await scene.statusWhere('it drains', answer => only(answer)?.draining?.[0]?.connections === 1)
    await daemon.kill()
    await startDaemon(scene)
    // The member reports its connections when it has reconnected.
    await scene.statusWhere('it drains still', answer => {
      const [older] = only(answer)?.draining ?? []
      return older?.pid === first.pid && older.phase === 'leaving' && older.connections === 1
    })
    await client()
    const cut = once(held, 'close')
    await scene.serve()
    await cut
    await first.end()
  })
})
