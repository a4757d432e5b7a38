import { Agent } from 'node:http'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { untyped } from '../fixtures/untyped.js'
import type { App } from '../processes/app.js'
import { ask } from '../processes/client.js'
import { upstream } from '../processes/edge.js'
import { freePort, Scene } from '../processes/scene.js'

const PROGRAM = fileURLToPath(new URL('../fixtures/own-proxy.mjs', import.meta.url))

interface Place {
  readonly url: string
  start(control?: string): Promise<App>
}

async function place(): Promise<Place> {
  const scene = Scene.open()
  const { url: server } = await upstream()
  const port = await freePort()
  return {
    url: `http://127.0.0.1:${port}`,
    start: (control = scene.control) =>
      scene.start({}, { command: [PROGRAM, control, `tcp://127.0.0.1:${port}`, server] }),
  }
}

describe('a proxy that a program starts', () => {
  it('needs a checked configuration', async () => {
    const { startProxy } = await import('fd-broker/proxy')
    await expect(startProxy(untyped({ service: 'edge' }))).rejects.toMatchObject({
      code: 'ERR_FDB_OPTION',
      message: expect.stringContaining('configFrom()'),
    })
  })

  it('passes requests on, and hands over to the next one, an open connection too', async () => {
    const { url, start } = await place()
    const first = await (await start()).serving()
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    const answer = await ask(`${url}/r/7`, { agent }).answer
    expect([answer.status, answer.headers['x-pid']]).toEqual([200, String(first.pid)])

    const second = await (await start()).serving()
    expect(await first.says('retired')).toMatchObject({ why: 'replaced' })
    await first.end()
    // The same connection: the agent has no other.
    const next = await ask(`${url}/r/7`, { agent }).answer
    expect([next.status, next.headers['x-pid']]).toEqual([200, String(second.pid)])
    expect(Object.values(agent.freeSockets).flat()).toHaveLength(1)
    agent.destroy()
    expect(second.find('serving')).toMatchObject({ addresses: { web: url.replace('http', 'tcp') } })
  })

  it('ends when it is disposed of', async () => {
    const { url, start } = await place()
    const only = await (await start()).serving()
    only.signal('SIGTERM')
    expect(await only.says('retired')).toMatchObject({ why: 'closed' })
    await only.end()
    await expect(ask(url).answer).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  })

  it('says which key is wrong, and has changed nothing', async () => {
    const { url, start } = await place()
    const failed = await start('no/path')
    expect(await failed.failure()).toMatchObject({ code: 'ERR_FDB_CONFIG' })
    await failed.end()
    await expect(ask(url).answer).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  })
})
