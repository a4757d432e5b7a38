import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { statSync } from 'node:fs'
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2'
import { Agent, get as getHttps } from 'node:https'
import { connect, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { makeCertificate } from '../processes/certificate.js'
import { ask, whoServes } from '../processes/client.js'
import { loadOn } from '../processes/load.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const TIMES = { probation: 0, heartbeat: 50, ready: 5_000 }

async function generationOverHttp2(session: ClientHttp2Session): Promise<string> {
  const stream = session.request({ ':path': '/whoami' })
  const body = await text(stream)
  return body.split(',')[0]!
}

function generationOverHttps(
  port: number,
  agent: Agent,
): Promise<{ generation: string; connection: string | undefined }> {
  return new Promise((resolve, reject) => {
    getHttps({ port, host: '127.0.0.1', path: '/whoami', agent }, async response => {
      const body = await text(response)
      resolve({ generation: body.split(',')[0]!, connection: response.headers.connection })
    }).on('error', reject)
  })
}

async function firstLine(socket: Socket): Promise<string> {
  const [chunk] = await once(socket, 'data')
  return String(chunk).trim()
}

describe('servers of other kinds cross an upgrade', () => {
  it('https: connections that stay are answered once more and told to close', async () => {
    const port = await freePort()
    const scene = Scene.open({ upgrade: TIMES })
    const config = {
      ...makeCertificate(scene),
      listeners: [{ name: 'tls', spec: `tcp://127.0.0.1:${port}`, server: 'https' as const }],
    }
    const first = await scene.serve(config)
    const agent = new Agent({ keepAlive: true, maxSockets: 1, rejectUnauthorized: false })
    expect(await generationOverHttps(port, agent)).toEqual({ generation: '1', connection: 'keep-alive' })
    await scene.serve(config)
    await first.says('retiring')
    expect(await generationOverHttps(port, agent)).toEqual({ generation: '1', connection: 'close' })
    expect(await generationOverHttps(port, agent)).toMatchObject({ generation: '2' })
    await first.end()
    agent.destroy()
  })

  for (const server of perLane(['h2'] as const, ['h2c', 'h2'] as const)) {
    it(`http2 (${server}): a session ends with GOAWAY, its stream is answered whole`, async () => {
      const port = await freePort()
      const scene = Scene.open({ upgrade: TIMES })
      const config = {
        ...makeCertificate(scene),
        listeners: [{ name: 'h2', spec: `tcp://127.0.0.1:${port}`, server }],
      }
      const open = () =>
        connectHttp2(`${server === 'h2' ? 'https' : 'http'}://127.0.0.1:${port}`, {
          rejectUnauthorized: false,
        })
      const first = await scene.serve(config)
      const session = open()
      expect(await generationOverHttp2(session)).toBe('1')
      const idle = open()
      expect(await generationOverHttp2(idle)).toBe('1')
      const stream = session.request({ ':path': '/stream?lines=10' })
      await once(stream, 'response')
      const goaway = once(session, 'goaway')
      await scene.serve(config)
      await goaway
      expect((await text(stream)).trimEnd().split('\n')).toHaveLength(10)
      const next = open()
      expect(await generationOverHttp2(next)).toBe('2')
      await first.end()
      for (const each of [session, idle, next]) each.destroy()
    })
  }

  it('net: a connection goes on with the old one until it ends by itself', async () => {
    const port = await freePort()
    const scene = Scene.open({
      upgrade: TIMES,
      listeners: [{ name: 'echo', spec: `tcp://127.0.0.1:${port}`, server: 'net' }],
    })
    const first = await scene.serve()
    const old = connect(port, '127.0.0.1')
    expect(await firstLine(old)).toBe('1')
    await scene.serve()
    await first.says('retiring')
    const young = connect(port, '127.0.0.1')
    expect(await firstLine(young)).toBe('2')
    old.write('still there?')
    expect(await firstLine(old)).toBe('still there?')
    expect(first.ended).toBe(false)
    old.end()
    await first.end()
    young.destroy()
  })

  it('udp, by a borrowed descriptor: datagrams are answered by the new one', async () => {
    const scene = Scene.open({
      upgrade: TIMES,
      listeners: [{ name: 'dns', spec: 'udp://127.0.0.1:0', server: 'udp' }],
    })
    const first = await scene.serve()
    await first.says('ready')
    const { port } = first.find('listener')!.address
    const client = createSocket('udp4')
    const answer = async () => {
      client.send('hello', port, '127.0.0.1')
      return String((await once(client, 'message'))[0])
    }
    expect(await answer()).toBe('1 hello')
    await (await scene.serve()).says('ready')
    await first.end()
    expect(await answer()).toBe('2 hello')
    client.close()
  })

  it('udp, by a socket that the listener serves: each datagram has one answer', async () => {
    const scene = Scene.open({
      upgrade: TIMES,
      listeners: [{ name: 'dns', spec: 'udp://127.0.0.1:0', server: 'dgram' }],
    })
    const first = await scene.serve()
    await first.says('ready')
    const { port } = first.find('listener')!.address
    const client = createSocket('udp4')
    const answers: string[] = []
    client.on('message', text => answers.push(String(text)))
    let sent = 0
    const timer = setInterval(() => client.send(`${++sent}`, port, '127.0.0.1'), 5)
    for (let generation = 2; generation < 4; generation++) {
      await (await scene.serve()).says('ready')
      const start = `${generation} `
      await until('the new one answers', () => answers.some(answer => answer.startsWith(start)))
    }
    clearInterval(timer)
    await until('all are answered', () => answers.length >= sent)
    const numbers = answers.map(answer => Number(answer.split(' ')[1])).toSorted((a, b) => a - b)
    expect(numbers).toEqual(Array.from({ length: sent }, (_, i) => i + 1))
    client.close()
  })

  it('a framework that insists on listen({ fd }) gets a borrowed descriptor', async () => {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const scene = Scene.open({
      upgrade: TIMES,
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}`, server: 'borrowed' }],
    })
    const first = await scene.serve()
    await first.says('ready')
    expect(await whoServes(url)).toBe(first.pid)
    const second = await scene.serve()
    await second.says('ready')
    await first.end()
    expect(await whoServes(url)).toBe(second.pid)
    expect([...first.story, ...second.story]).not.toContain('borrowError')
  })

  it.runIf(NIGHTLY)('a Unix path under load: never absent, never refusing, the same file', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const path = scene.file('web.sock')
    const listeners = [{ name: 'web', spec: `unix:${path}?mode=0660` }]
    let current = await scene.serve({ listeners })
    const { ino } = statSync(path)
    const load = await loadOn(`unix:${path}`, { freshShare: 0.8, streams: 0 })
    for (let upgrade = 1; upgrade <= 3; upgrade++) {
      const next = await scene.serve({ listeners })
      await load.answeredBy(next.pid)
      await current.end()
      expect(statSync(path)).toMatchObject({ ino, mode: 0o140660 })
      current = next
    }
    await load.stop()
  })
})

describe('listeners that change between versions', () => {
  it('a new one is bound before the commit, and answers after it; one that moved leaves its old address after it', async () => {
    const [before, after, admin] = await Promise.all([freePort(), freePort(), freePort()])
    const scene = Scene.open({ upgrade: TIMES })
    const first = await scene.serve({ listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${before}` }] })
    const second = await scene.start({
      readyDelay: 700,
      listeners: [
        { name: 'web', spec: `tcp://127.0.0.1:${after}` },
        { name: 'admin', spec: `tcp://127.0.0.1:${admin}` },
      ],
    })
    await until('both are bound', () => second.story.filter(say => say === 'listener').length === 2)
    const early = ask(`http://127.0.0.1:${admin}/whoami`).answer
    expect(await whoServes(`http://127.0.0.1:${before}`)).toBe(first.pid)
    expect(second.find('serving')).toBeUndefined()
    expect((await early).headers['x-pid']).toBe(`${second.pid}`)
    await first.end()
    expect(await whoServes(`http://127.0.0.1:${after}`)).toBe(second.pid)
    await expect(whoServes(`http://127.0.0.1:${before}`)).rejects.toThrow('ECONNREFUSED')
    const { listeners } = await scene.status()
    expect(listeners.map(({ name, address }) => [name, address]).sort()).toEqual([
      ['admin', `tcp://127.0.0.1:${admin}`],
      ['web', `tcp://127.0.0.1:${after}`],
    ])
  })

  it('changed options are reported, and changed where the kernel allows it', async () => {
    const [port, both] = await Promise.all([freePort(), freePort('::')])
    const scene = Scene.open({ upgrade: TIMES })
    const path = scene.file('web.sock')
    const first = await scene.serve({
      listeners: [
        { name: 'tcp', spec: `tcp://127.0.0.1:${port}`, server: 'none' },
        { name: 'path', spec: `unix:${path}?mode=0600` },
        { name: 'both', spec: `tcp://[::]:${both}`, server: 'none' },
      ],
    })
    const second = await scene.serve({
      listeners: [
        { name: 'tcp', spec: `tcp://127.0.0.1:${port}?backlog=64`, server: 'none' },
        { name: 'path', spec: `unix:${path}?mode=0660` },
        { name: 'both', spec: `tcp://[::]:${both}?ipv6Only=false`, server: 'none' },
      ],
    })
    const changes = Object.fromEntries(
      second.said.filter(({ say }) => say === 'listenerChanged').map(({ name, changes }) => [name, changes]),
    )
    expect(changes).toEqual({
      tcp: [{ option: 'backlog', applied: true }],
      path: [{ option: 'mode', applied: true }],
      both: [
        {
          option: 'ipv6Only',
          applied: false,
          reason: expect.stringContaining('the kernel cannot change it after bind'),
        },
      ],
    })
    expect(statSync(path).mode & 0o777).toBe(0o660)
    await first.end()
    const third = await scene.serve({ listeners: second.config.listeners! })
    expect(third.said.filter(({ say }) => say === 'listenerChanged')).toMatchObject([{ name: 'both' }])
  })
})
