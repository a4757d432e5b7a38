import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { request } from 'node:https'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { WebSocket, WebSocketServer } from 'ws'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { Edge } from '../processes/edge.js'
import { releases } from '../processes/release.js'
import { TlsClient } from '../processes/tls-client.js'
import { until } from '../processes/until.js'

const PYTHON_CLIENT = fileURLToPath(new URL('../fixtures/tls_client.py', import.meta.url))
/** On a machine that has much else to do. Alone an upgrade takes a tenth of a second. */
const BUSY_MS = 60_000
const UPGRADES = perLane(1, 20)
const CLIENTS = perLane(16, 500)
const MOVES = { move: 'on' }

/** A server whose answers the test writes. `arrived`: each request with its response. */
async function ownUpstream() {
  const arrived: [IncomingMessage, ServerResponse][] = []
  const server = createServer((incoming, response) => {
    if (incoming.url?.startsWith('/whoami')) incoming.resume().on('end', () => response.end('here\n'))
    else arrived.push([incoming, response])
  })
  const sockets = new WebSocketServer({ server })
  sockets.on('connection', socket => socket.on('message', data => socket.send(String(data))))
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    for (const client of sockets.clients) client.terminate()
    server.close()
    server.closeAllConnections()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, arrived }
}

async function secured(tls: object = MOVES, upgrade: object = { probation: '0s' }) {
  const { url, arrived } = await ownUpstream()
  const edge = await Edge.prepare({
    upstreams: { app: { servers: [url] } },
    routes: [{ host: '*', upstream: 'app' }],
    upgrade,
    drain: { timeout: '5m' },
    // Most clients are silent through all upgrades.
    timeouts: { idle: '10m' },
  })
  const certificates = [edge.issue('localhost')]
  const configure = (tls: object) => edge.write(edge.secured(certificates, tls))
  configure(tls)
  return { edge, arrived, configure }
}

/** Runs until the test has ended. */
function start(file: string, args: string[]) {
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
    })
  onTestFinished(() => void child.kill('SIGKILL'))
  return Object.assign(child, { text: () => text })
}

const HALF = Buffer.alloc(300_000, 'x')

/** A request over a connection of its own. `body`: resolves with the number of bytes of the whole answer. */
function transfer(port: number, path: string, method: string) {
  const sent = request({ port, host: '127.0.0.1', path, method, agent: false, rejectUnauthorized: false })
  onTestFinished(() => void sent.destroy())
  let received = 0
  const body = new Promise<number>((resolve, reject) => {
    sent.on('error', reject).on('response', response => {
      response.on('data', chunk => (received += chunk.length)).on('error', reject)
      response.on('end', () => resolve(received))
    })
  })
  body.catch(() => {})
  return { request: sent, body, received: () => received }
}

/** An answer and an upload with a half each, and a WebSocket. */
async function underWay(edge: Edge, arrived: [IncomingMessage, ServerResponse][]) {
  const answer = transfer(edge.port, '/answer', 'GET')
  answer.request.end()
  await until('the request is there', () => arrived.length === 1)
  arrived[0]![1].write(HALF)
  await until('half of the answer is there', () => answer.received() === HALF.length)
  const upload = transfer(edge.port, '/upload', 'POST')
  upload.request.write(HALF)
  await until('the upload has begun', () => arrived.length === 2)
  const [body, response] = arrived[1]!
  let got = 0
  body.on('data', chunk => (got += chunk.length)).on('end', () => response.end(Buffer.alloc(got)))
  await until('half of the upload is there', () => got === HALF.length)
  const socket = new WebSocket(`wss://127.0.0.1:${edge.port}/ws`, { rejectUnauthorized: false })
  onTestFinished(() => socket.terminate())
  const heard: string[] = []
  socket.on('message', data => heard.push(String(data)))
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
  const webSocket = {
    async says(text: string) {
      socket.send(text)
      await until(`the echo of ${text}`, () => heard.includes(text))
    },
  }
  await webSocket.says('first')
  return { answer, upload, webSocket }
}

const pidOf = async (client: TlsClient) =>
  Number(/x-pid: (\d+)/i.exec((await client.answer('/whoami')).head)?.[1])

/** Resolves when so many connections have moved to the serving process. */
async function arrivedAre(edge: Edge, count: number): Promise<void> {
  let moves: object | null | undefined
  const arrived = async () => {
    const status = await edge.status()
    moves = status.moves
    return status.moves?.arrived === count
  }
  await until(`${count} have moved`, arrived, BUSY_MS, () => JSON.stringify(moves))
}

/** Asks until an answer says that it is the last; returns the process that has written it. */
async function lastPidOf(client: TlsClient): Promise<number> {
  for (;;) {
    const { head } = await client.answer('/whoami')
    if (/connection: close/i.test(head)) return Number(/x-pid: (\d+)/i.exec(head)?.[1])
  }
}

describe('a proxy whose TLS connections move', () => {
  it('keeps every connection of Node, Python and curl through upgrades', { timeout: 240_000 }, async () => {
    const { edge } = await secured()
    let pid = await edge.next()
    const clients: TlsClient[] = []
    // Ten handshakes at a time: hundreds take this machine longer than one answer may take.
    while (clients.length < CLIENTS) {
      const some = Array.from({ length: 10 }, () => new TlsClient(edge.port))
      await Promise.all(some.map(pidOf))
      clients.push(...some)
    }
    let stopped = false
    const busy = clients.slice(0, 5).map(async client => {
      while (!stopped) await pidOf(client)
    })
    const stop = `${edge.file}.stop`
    const python = start('python3', [PYTHON_CLIENT, `${edge.port}`, stop, '2'])
    await until('Python is connected', () => python.text().includes('connected'))
    const curl = start('curl', [
      '-sSkN',
      '--rate',
      '20/s',
      '-w',
      'new: %{num_connects}\n',
      `https://127.0.0.1:${edge.port}/whoami?[1-2000]`,
    ])
    await until(
      'curl has asked',
      () => curl.text().includes('new'),
      10_000,
      () => curl.text(),
    )
    for (let round = 0; round < UPGRADES; round++) {
      const before = pid
      pid = await edge.next()
      await edge.ended(before, BUSY_MS)
    }
    stopped = true
    writeFileSync(stop, '')
    await Promise.all(busy)
    await until('Python has ended', () => python.exitCode !== null && python.text().includes('asked'))
    expect(python.text()).toMatch(/^connected\nasked \d+\n$/)
    expect(clients.filter(({ isClosed }) => isClosed)).toHaveLength(0)
    expect(new Set(await Promise.all(clients.map(pidOf)))).toEqual(new Set([pid]))
    const lines = curl.text().split('\n')
    expect(lines.filter(line => line === 'new: 1')).toHaveLength(1)
    const status = await edge.status()
    expect(status.moves).toMatchObject({ lost: 0 })
    const shown = JSON.stringify(status) + edge.sandbox.output
    const secrets = clients.flatMap(client => client.secrets)
    expect(secrets.length).toBeGreaterThan(4 * CLIENTS)
    expect(secrets.filter(secret => shown.includes(secret))).toEqual([])
  })

  it('moves answers, uploads and WebSockets that are under way', { timeout: 120_000 }, async () => {
    const { edge, arrived } = await secured()
    const first = await edge.next()
    const { answer, upload, webSocket } = await underWay(edge, arrived)
    const second = await edge.next()
    await edge.ended(first, BUSY_MS)
    await webSocket.says('amid')
    arrived[0]![1].write(HALF)
    upload.request.write(HALF)
    const third = await edge.next()
    await edge.ended(second, BUSY_MS)
    await webSocket.says('later')
    arrived[0]![1].end()
    upload.request.end()
    expect(await answer.body).toBe(2 * HALF.length)
    expect(await upload.body).toBe(2 * HALF.length)
    expect((await edge.status()).pid).toBe(third)
    expect((await edge.status()).moves).toMatchObject({ arrived: 3, lost: 0 })
  })

  it.runIf(NIGHTLY)(
    'keeps its connections through a rollback, also those that have moved before',
    {
      timeout: 120_000,
    },
    async () => {
      const { edge, arrived } = await secured(MOVES, { probation: '60s' })
      const first = await edge.next()
      const clients = Array.from({ length: 10 }, () => new TlsClient(edge.port))
      const answeredBy = (pid: number) =>
        until(`all are answered by ${pid}`, async () =>
          (await Promise.all(clients.map(pidOf))).every(each => each === pid),
        )
      await answeredBy(first)
      const { answer, webSocket } = await underWay(edge, arrived)
      const second = await edge.next()
      await answeredBy(second)
      await arrivedAre(edge, 13)
      clients.push(new TlsClient(edge.port))
      await answeredBy(second)
      expect((await edge.sandbox.run('rollback', '--control', edge.sandbox.control)).code).toBe(0)
      await answeredBy(first)
      await webSocket.says('back')
      arrived[0]![1].end(HALF)
      expect(await answer.body).toBe(2 * HALF.length)
      expect(clients.filter(({ isClosed }) => isClosed)).toHaveLength(0)
      await arrivedAre(edge, 14)
      expect((await edge.status()).moves).toMatchObject({ moved: 13, lost: 0, refused: {} })
    },
  )

  it.runIf(NIGHTLY)(
    'lets TLS 1.2 end, and all if the next version takes no TLS: after an answer that says so',
    async () => {
      const { edge, configure } = await secured()
      const first = await edge.next()
      const old = new TlsClient(edge.port, { maxVersion: 'TLSv1.2' })
      const newer = new TlsClient(edge.port)
      for (const client of [old, newer]) await pidOf(client)
      const second = await edge.next()
      await arrivedAre(edge, 1)
      await until('the status says why the other one stays', async () => {
        const [older] = (await edge.status()).draining
        return older?.connections === 1 && older.kinds?.['tls1.2'] === 1
      })
      expect(await lastPidOf(old)).toBe(first)
      expect(await pidOf(newer)).toBe(second)
      configure({ move: 'off' })
      await edge.next()
      expect(await lastPidOf(newer)).toBe(second)
      await edge.ended(second, BUSY_MS)
    },
  )

  it('counts those that are closed at the end by the reason for which they stayed', async () => {
    const { edge } = await secured()
    edge.write({ drain: { timeout: '1s', tlsTimeout: '1s' } })
    const first = await edge.next()
    const old = new TlsClient(edge.port, { maxVersion: 'TLSv1.2' })
    await pidOf(old)
    await edge.next()
    const line = await edge.logged(
      'connections did not end in time and were closed',
      ({ pid }) => pid === first,
    )
    expect(line.closed).toEqual([{ kind: 'https', reason: 'tls1.2', count: 1 }])
  })
})

describe.each(releases())('TLS connections between the proxy of $name and the present one', release => {
  it('stay, and get an answer that says so', async () => {
    const { edge, configure } = await secured({})
    const pids = [await edge.next(release)]
    for (const [tls, version] of [
      [MOVES, undefined],
      [{}, release],
    ] as const) {
      const client = new TlsClient(edge.port)
      expect(await pidOf(client)).toBe(pids.at(-1))
      configure(tls)
      pids.push(await edge.next(version))
      expect(await lastPidOf(client)).toBe(pids.at(-2))
      await edge.ended(pids.at(-2)!, BUSY_MS)
    }
  })
})
