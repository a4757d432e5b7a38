import http from 'node:http'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join, type Member } from '../../../src/index.js'
import { freePort, Scene } from '../../processes/scene.js'

async function serving(): Promise<{ member: Member; port: number; server: http.Server }> {
  const { control } = Scene.open()
  const member = await join({ service: 'shop', control })
  onTestFinished(() => member.close({ timeout: 0 }))
  const port = await freePort()
  const web = await member.listen('web', `tcp://127.0.0.1:${port}`)
  const server = http.createServer((_request, response) => response.end('answered'))
  web.serve(server)
  return { member, port, server }
}

/** Sends a request. Behind the next tick the connection waits in the kernel's queue: the server accepts in a later turn of the event loop. */
async function ask(port: number): Promise<string> {
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    http.get({ host: '127.0.0.1', port, agent: false }, resolve).once('error', reject)
  })
  return await text(response)
}

describe('a client that waits in the queue of a listener gets its answer', () => {
  it('although the listener is closed', async () => {
    const { member, port } = await serving()
    await member.ready()
    const answers = Promise.all([ask(port), ask(port)])
    process.nextTick(() => member.unlisten('web'))
    expect(await answers).toEqual(['answered', 'answered'])
  })

  it('although the listener gets another address', async () => {
    const { member, port } = await serving()
    await member.ready()
    const other = await freePort()
    const answer = ask(port)
    process.nextTick(() => void member.relisten('web', `tcp://127.0.0.1:${other}`))
    expect(await answer).toBe('answered')
  })

  it('although the service ends', async () => {
    const { member, port } = await serving()
    let answer: Promise<string> | undefined
    member.whileServing(() => () => {
      answer = ask(port)
      return new Promise<void>(process.nextTick)
    })
    await member.ready()
    await member.close()
    expect(await answer).toBe('answered')
  })
})

it('a server that its program has closed gets no further connection when its listener is closed', async () => {
  const { member, port, server } = await serving()
  await member.ready()
  server.close()
  const answer = ask(port)
  process.nextTick(() => member.unlisten('web'))
  await expect(answer).rejects.toThrow('ECONNRESET')
})
