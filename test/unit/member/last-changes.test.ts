import http from 'node:http'
import net from 'node:net'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join, type Member, serveDaemon } from '../../../src/index.js'
import { OperatorClient } from '../../../src/operator.js'
import { perLane } from '../../lanes/lane.js'
import { servedBy, serviceWhere, startDaemon } from '../../processes/daemon.js'
import { freePort, Scene } from '../../processes/scene.js'
import { until } from '../../processes/until.js'

async function ask(port: number): Promise<string> {
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    http.get({ host: '127.0.0.1', port, agent: false }, resolve).once('error', reject)
  })
  return `${response.statusCode} ${await text(response)}`
}

/** A version amid a request that changes the state after `goOn()`. */
async function changing(hosting: 'daemon' | 'embedded', timeout: number, probation = 100) {
  const scene = Scene.open()
  const { control } = scene
  const upgrade = { probation, heartbeat: 50 }
  const startDaemon = async () => {
    const daemon = await serveDaemon({ control, upgrade })
    onTestFinished(() => daemon.close())
    return daemon
  }
  const daemon = hosting === 'daemon' ? await startDaemon() : null
  const port = await freePort()
  let change = () => {}
  const joined = async (): Promise<Member> => {
    const member = await join({ service: 'shop', control, hosting, upgrade, drain: { timeout } })
    onTestFinished(() => member.close({ timeout: 0 }))
    return member
  }
  const version = async (name: string): Promise<Member> => {
    const member = await joined()
    const orders = member.section('orders')
    const server = http.createServer(async (_request, response) => {
      await new Promise<void>(resolve => {
        change = resolve
      })
      await orders.put('one', Buffer.from(name)).then(
        () => response.end(name),
        error => response.writeHead(500).end(String(error)),
      )
    })
    const web = await member.listen('web', `tcp://127.0.0.1:${port}`)
    web.serve(server)
    await member.ready()
    return member
  }
  const begin = async () => {
    const begun = change
    const answer = ask(port)
    await until('the request has begun', () => change !== begun)
    return { answer, goOn: change }
  }
  const first = await version('first')
  return {
    control,
    first,
    begin,
    ...(await begin()),
    version,
    joined,
    endDaemon: async () => await daemon?.close(),
    /** Resolves when the members of the previous daemon are back. */
    async daemonAgain() {
      await daemon?.close()
      await startDaemon()
      await serviceWhere(scene, 'the members are back', ({ phase }) => phase === 'idle')
    },
  }
}

/** Two versions, of which the first one has retired, amid a request that changes the state after `goOn()`. */
async function replaced(hosting: 'daemon' | 'embedded', timeout: number) {
  const scene = await changing(hosting, timeout)
  const { control, first, version } = scene
  const next = await version('next')
  await until('the first version leaves', () => first.phase === 'leaving')
  const stop = async () => {
    using client = await OperatorClient.connect(control)
    const body = JSON.stringify({ timeoutMs: null, drop: false })
    await client.command('service.stop', body, { service: hosting === 'daemon' ? 'shop' : '' })
  }
  return { ...scene, next, stop }
}

/** Longer than a test may take. */
const LONG = 600_000

describe.each(perLane<readonly ('daemon' | 'embedded')[]>(['embedded', 'daemon'], ['embedded', 'daemon']))(
  'a request of a replaced version that changes the state (%s)',
  hosting => {
    it('gets its answer although the service is stopped meanwhile', async () => {
      const { answer, goOn, next, stop } = await replaced(hosting, 5_000)
      await stop()
      setTimeout(goOn, 300)
      expect(await answer).toBe('200 first')
      await until('the service has ended', () => next.phase === 'gone')
    })
  },
)

describe('a request that changes the state, of a version that leaves its daemon without a successor', () => {
  it('gets its answer although the daemon is dead', async () => {
    const { begin, endDaemon, first, goOn } = await changing('daemon', LONG)
    await endDaemon()
    goOn()
    const { answer, goOn: change } = await begin()
    const closed = first.close()
    setTimeout(change, 300)
    expect(await answer).toBe('200 first')
    await closed
  })

  it('gets its answer although the daemon dies in its probation', async () => {
    const { begin, endDaemon, first, goOn, version } = await changing('daemon', LONG, LONG)
    goOn()
    const next = await version('next')
    await until('the first version stands by', () => first.phase === 'standby')
    await endDaemon()
    const { answer, goOn: change } = await begin()
    const closed = next.close()
    setTimeout(change, 300)
    expect(await answer).toBe('200 next')
    await closed
  })

  it('gets its answer although the daemon is replaced meanwhile', async () => {
    const { answer, daemonAgain, first, goOn } = await changing('daemon', LONG)
    const closed = first.close()
    await daemonAgain()
    goOn()
    expect(await answer).toBe('200 first')
    await closed
  })

  it('gets its answer although a next version joins meanwhile, and gives up', async () => {
    const { answer, first, goOn, joined } = await changing('daemon', LONG)
    const closed = first.close()
    const next = await joined()
    await next.close()
    setTimeout(goOn, 300)
    expect(await answer).toBe('200 first')
    await closed
  })
})

it('a version that was stopped, and changes the state for the one before, ends with that one also if the daemon is killed meanwhile', async () => {
  const port = await freePort()
  const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }]
  const upgrade = { probation: 100, heartbeat: 50 }
  const drain = { timeout: LONG }
  const scene = Scene.open({ hosting: 'daemon', routes: 0, upgrade, drain, listeners })
  const daemon = await startDaemon(scene, { upgrade })
  const first = await scene.serve()
  const client = net.connect(port, '127.0.0.1')
  client.write('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab')
  await until('the request has begun', async () => (await first.status()).connections === 1)
  const next = await scene.serve()
  await servedBy(scene, next)
  await until('the first version leaves', async () => (await first.order('phase')) === 'leaving')
  using operator = await OperatorClient.connect(scene.control)
  await operator.command('service.stop', JSON.stringify({ timeoutMs: null, drop: false }), {
    service: 'shop',
  })
  await daemon.kill()
  await startDaemon(scene, { upgrade })
  await serviceWhere(scene, 'the members are back', ({ phase }) => phase === 'idle')
  await first.order('put', { key: 'one', value: 1 })
  client.destroy()
  await next.end()
})
