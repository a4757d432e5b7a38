import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createConnection, type Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { WebSocket } from 'ws'
import { get, RawClient } from '../connections-support/http-client.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App, ListenerConfig } from '../processes/app.js'
import { startDaemon } from '../processes/daemon.js'
import { launchUnrelated, signalPid } from '../processes/launch.js'
import { freePort, Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'

const ROOM = fileURLToPath(new URL('../../docs/examples/websocket/server.mjs', import.meta.url))

/** On a machine that has much else to do. Alone an upgrade takes a tenth of a second. */
const BUSY_MS = 60_000
const ROUNDS = perLane(2, 3)
/** Connections of the first test: a tenth of them are busy. */
const CLIENTS = perLane(200, 500)
/** Connections that always talk. */
const TALKING = perLane(6, 20)

const TIMES = { probation: 0, heartbeat: 50, ready: 20_000 }

async function sceneWith(server: ListenerConfig['server'], drain?: object): Promise<[Scene, number]> {
  const port = await freePort()
  const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}`, ...(server && { server }) }]
  return [Scene.open({ upgrade: TIMES, listeners, ...(drain && { drain }) }), port]
}

/** Starts the next version and waits until the one before has ended. */
async function upgrade(scene: Scene, before: App): Promise<App> {
  const next = await scene.serve()
  await before.end(BUSY_MS)
  return next
}

describe('an http.Server that is upgraded', () => {
  it('keeps every connection, idle and busy, through one upgrade after the other', {
    timeout: 240_000,
  }, async () => {
    const [scene, port] = await sceneWith('http')
    let app = await scene.serve()
    const clients: RawClient[] = []
    for (let i = 0; i < CLIENTS; i++) clients.push(await RawClient.to(port))
    // A third has never asked anything when the first upgrade comes.
    await Promise.all(clients.slice(CLIENTS / 3).map(client => client.ask('/whoami')))
    let stopped = false
    const served = new Set<string>()
    const busy = clients.slice(CLIENTS * 0.9).map(async (client, i) => {
      for (let n = 0; !stopped; n++) {
        // Some never wait between an answer and the next request.
        if (i % 10 === 0) served.add((await client.ask('/whoami')).split(',')[0]!)
        else if (n % 4 === 0) expect(await client.ask(`/slow?ms=${20 + i}`)).toBe('slow but sure\n')
        else if (n % 4 === 1) {
          client.send(get('/whoami') + get('/whoami'))
          for (let k = 0; k < 2; k++) served.add((await client.answer()).body.split(',')[0]!)
        } else {
          const request = get('/whoami')
          const at = (n * 7 + i) % request.length
          client.send(request.slice(0, at))
          await pause(1)
          client.send(request.slice(at))
          served.add((await client.answer()).body.split(',')[0]!)
        }
      }
    })
    for (let round = 0; round < ROUNDS; round++) {
      app = await upgrade(scene, app)
    }
    stopped = true
    await Promise.all(busy)
    expect(clients.filter(({ end }) => end !== null)).toHaveLength(0)
    const answers = await Promise.all(clients.map(client => client.ask('/whoami')))
    expect(new Set(answers)).toEqual(new Set([`${ROUNDS + 1},${app.pid}\n`]))
    expect([...served].sort()).toEqual(Array.from({ length: ROUNDS + 1 }, (_, round) => `${round + 1}`))
    expect((await app.status()).moves).toMatchObject({ arrived: CLIENTS, lost: 0 })
  })

  it('lets slow requests end where they are, and then has their connections', async () => {
    const [scene, port] = await sceneWith('http')
    const first = await scene.serve()
    const slow = await RawClient.to(port)
    slow.send(get('/slow?ms=1500'))
    const idle = await RawClient.to(port)
    await idle.ask('/whoami')
    const second = await scene.serve()
    expect((await slow.answer()).head).toMatch(new RegExp(`^x-pid: ${first.pid}$`, 'm'))
    await first.end()
    for (const client of [slow, idle]) expect(await client.ask('/whoami')).toBe(`2,${second.pid}\n`)
  })

  it('has the connections of several older generations come to the newest', {
    timeout: 240_000,
  }, async () => {
    const [scene, port] = await sceneWith('http')
    const clients: RawClient[] = []
    const apps: App[] = []
    for (let generation = 1; generation <= 3; generation++) {
      apps.push(await scene.serve())
      const client = await RawClient.to(port)
      await client.ask('/whoami')
      // Half a request keeps it where it is.
      clients.push(client.send('GET /whoami HT'))
      await scene.statusWhere('it is read', ({ listeners }) => listeners[0]!.kinds['half-request'] === 1)
    }
    await scene.statusWhere('two drain', ({ draining }) => draining.length === 2)
    for (const [i, client] of clients.entries()) {
      client.send('TP/1.1\r\nHost: x\r\n\r\n')
      expect((await client.answer()).body).toBe(`${i + 1},${apps[i]!.pid}\n`)
    }
    for (const app of apps.slice(0, 2)) await app.end()
    for (const client of clients) expect(await client.ask('/whoami')).toBe(`3,${apps[2]!.pid}\n`)
  })

  it('keeps them when its sockets are held by a daemon', { timeout: 240_000 }, async () => {
    const port = await freePort()
    const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }]
    const scene = Scene.open({ hosting: 'daemon', upgrade: TIMES, listeners })
    await startDaemon(scene, { upgrade: TIMES })
    let app = await scene.serve()
    const clients = await Promise.all(Array.from({ length: 50 }, () => RawClient.to(port)))
    await Promise.all(clients.map(client => client.ask('/whoami')))
    for (let round = 0; round < perLane(1, 2); round++) app = await upgrade(scene, app)
    const answers = await Promise.all(clients.map(client => client.ask('/whoami')))
    expect(new Set(answers)).toEqual(new Set([`${app.find('joined')!.generation},${app.pid}\n`]))
    expect(clients.filter(({ end }) => end !== null)).toHaveLength(0)
  })

  it.runIf(NIGHTLY)(
    'has the connections of several older generations come to the newest, also after its daemon was replaced',
    {
      timeout: 240_000,
    },
    async () => {
      const port = await freePort()
      const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}`, server: 'http' as const }]
      const scene = Scene.open({ hosting: 'daemon', upgrade: TIMES, listeners })
      const daemon = await startDaemon(scene, { upgrade: TIMES })
      const apps: App[] = []
      const clients: RawClient[] = []
      for (let generation = 1; generation <= 2; generation++) {
        apps.push(await scene.serve())
        const client = await RawClient.to(port)
        await client.ask('/whoami')
        // Half a request keeps it where it is.
        clients.push(client.send('GET /whoami HT'))
      }
      await apps[0]!.says('retiring')
      await startDaemon(scene, { upgrade: TIMES, takeOver: true })
      await daemon.end()
      apps.push(await scene.serve())
      // Generation 2 no longer takes connections: generation 1 needs a way to generation 3.
      await apps[1]!.says('retiring')
      for (const [i, client] of clients.entries()) {
        const { head, body } = await client.send('TP/1.1\r\nHost: x\r\n\r\n').answer()
        expect([body, /^connection: (.*)$/im.exec(head)?.[1]]).toEqual([
          `${i + 1},${apps[i]!.pid}\n`,
          'keep-alive',
        ])
      }
      for (const app of apps.slice(0, 2)) await app.end()
      for (const client of clients) expect(await client.ask('/whoami')).toBe(`3,${apps[2]!.pid}\n`)
    },
  )

  it('tells connections to go where nothing is to move', async () => {
    const [scene, port] = await sceneWith('http', { move: 'off' })
    const first = await scene.serve()
    const client = await RawClient.to(port)
    await client.ask('/whoami')
    await scene.serve()
    await first.says('retiring')
    const { head, body } = await client.send(get('/whoami')).answer()
    expect([body, /^connection: (.*)$/im.exec(head)?.[1]]).toEqual([`1,${first.pid}\n`, 'close'])
    expect(await client.ended()).toBe('fin')
    await first.end()
  })

  it('names every connection that it closes at the end of the drain', async () => {
    const [scene, port] = await sceneWith('http', { move: 'off', timeout: 500 })
    const first = await scene.serve()
    const [idle, half, slow] = [await RawClient.to(port), await RawClient.to(port), await RawClient.to(port)]
    await idle.ask('/whoami')
    await half.send(`${get('/whoami')}GET /half`).answer()
    slow.send(get('/slow?ms=60000'))
    await until('all are known', async () => {
      const { kinds } = (await first.status()).listeners[0]!
      return kinds.idle === 1 && kinds['half-request'] === 1 && kinds.answering === 1
    })
    await scene.serve()
    await first.says('ended')
    const told = first.said.find(({ message }) => message?.includes('were closed'))
    expect(told).toMatchObject({ idle: 1, busy: 2 })
    expect(told!.closed).toHaveLength(3)
    for (const reason of ['idle', 'half-request', 'answering'])
      expect(told!.closed).toContainEqual({ kind: 'http', reason, count: 1 })
  })
})

describe('the example docs/examples/websocket', () => {
  it('goes on with its clients in the next process', { timeout: 240_000 }, async () => {
    const [scene, port] = await sceneWith('none')
    const command = [ROOM, '--control', scene.control, '--listen', `tcp://127.0.0.1:${port}`]
    const start = async (generation: number) => {
      const log = scene.file(`room${generation}.log`)
      const pid = await launchUnrelated([process.execPath, ...command], { log, env: { ...process.env } })
      onTestFinished(() => signalPid(pid, 'SIGKILL'))
      const serves = `generation ${generation} (pid ${pid}) serves`
      await until(serves, () => readFileSync(log, 'utf8').includes(serves))
      return pid
    }
    const first = await start(1)
    const clients = await Promise.all(['ann', 'bob'].map(name => client(port, name)))
    const ask = async (ws: WebSocket) => {
      const heard = once(ws, 'message')
      ws.send('/who')
      return String((await heard)[0])
    }
    expect(await ask(clients[0]!)).toBe(`generation 1, pid ${first}, ann, 2 messages`)
    const second = await start(2)
    await until('both have gone over', async () => {
      const { moves } = await scene.status()
      return moves.arrived === 2
    })
    expect(await ask(clients[0]!)).toBe(`generation 2, pid ${second}, ann, 3 messages`)
    const heard = once(clients[1]!, 'message')
    clients[0]!.send('hello')
    expect(String((await heard)[0])).toBe('ann: hello')
  })

  async function client(port: number, name: string): Promise<WebSocket> {
    const ws = new WebSocket(`ws://127.0.0.1:${port}/`)
    onTestFinished(() => ws.terminate())
    await once(ws, 'open')
    ws.send(name)
    return ws
  }
})

describe('connections of an application protocol', () => {
  it('go on through one upgrade after the other at any byte', { timeout: 240_000 }, async () => {
    const [scene, port] = await sceneWith('lines')
    let app = await scene.serve()
    const sockets = await Promise.all(Array.from({ length: TALKING }, () => connected(port)))
    let stopped = false
    const talks = sockets.map(async socket => {
      let text = ''
      let closed = false
      socket.setEncoding('latin1').on('data', chunk => {
        text += chunk
      })
      socket.on('close', () => {
        closed = true
      })
      let sent = 0
      while (!stopped) {
        for (const piece of [`line `, `${++sent}`, '\n']) {
          socket.write(piece)
          await pause(1)
        }
      }
      await until('all are answered', () => text.split('\n').length === sent + 1)
      text
        .trimEnd()
        .split('\n')
        .forEach((line, i) => {
          expect(line).toMatch(new RegExp(`^${i + 1} \\d+ line ${i + 1}$`))
        })
      expect(closed).toBe(false)
    })
    for (let round = 0; round < ROUNDS; round++) app = await upgrade(scene, app)
    stopped = true
    await Promise.all(talks)
  })
})

async function connected(port: number): Promise<Socket> {
  const socket = createConnection(port, '127.0.0.1')
  onTestFinished(() => {
    socket.destroy()
  })
  await once(socket, 'connect')
  return socket
}
