import http from 'node:http'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join, type Member, serveDaemon } from '../../../src/index.js'
import { OperatorClient } from '../../../src/operator.js'
import { perLane } from '../../lanes/lane.js'
import { freePort, Scene } from '../../processes/scene.js'
import { until } from '../../processes/until.js'

async function ask(port: number): Promise<string> {
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    http.get({ host: '127.0.0.1', port, agent: false }, resolve).once('error', reject)
  })
  return `${response.statusCode} ${await text(response)}`
}

/** Two versions, of which the first one has retired, amid a request that changes the state `ms` after an order to stop the service. */
async function replaced(hosting: 'daemon' | 'embedded', ms: number) {
  const { control } = Scene.open()
  const upgrade = { probation: 100, heartbeat: 50 }
  if (hosting === 'daemon') {
    const daemon = await serveDaemon({ control, upgrade })
    onTestFinished(() => daemon.close())
  }
  const port = await freePort()
  let change = () => {}
  const version = async (name: string): Promise<Member> => {
    const member = await join({ service: 'shop', control, hosting, upgrade, drain: { timeout: 5_000 } })
    onTestFinished(() => member.close({ timeout: 0 }))
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
  const first = await version('first')
  const answer = ask(port)
  const begun = change
  await until('the request has begun', () => change !== begun)
  const goOn = change
  const next = await version('next')
  await until('the first version leaves', () => first.phase === 'leaving')
  return {
    answer,
    next,
    async stop() {
      using client = await OperatorClient.connect(control)
      await client.command('service.stop', JSON.stringify({ timeoutMs: null, drop: false }), {
        service: hosting === 'daemon' ? 'shop' : '',
      })
      setTimeout(goOn, ms)
    },
  }
}

describe.each(perLane<readonly ('daemon' | 'embedded')[]>(['embedded', 'daemon'], ['embedded', 'daemon']))(
  'a request of a replaced version that changes the state (%s)',
  hosting => {
    it('gets its answer although the service is stopped meanwhile', async () => {
      const { answer, next, stop } = await replaced(hosting, 300)
      await stop()
      expect(await answer).toBe('200 first')
      await until('the service has ended', () => next.phase === 'gone')
    })
  },
)
