import { type ChildProcess, spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { Agent } from 'node:http'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { makeCertificate } from '../processes/certificate.js'
import { ask } from '../processes/client.js'
import { freePort, Scene } from '../processes/scene.js'
import { TlsClient } from '../processes/tls-client.js'
import { pause, until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'

const PYTHON_CLIENT = fileURLToPath(new URL('../fixtures/tls_client.py', import.meta.url))
/** On a machine that has much else to do. Alone an upgrade takes a tenth of a second. */
const BUSY_MS = 60_000
const TIMES = { heartbeat: 50, ready: 20_000 }
const UPGRADES = perLane(2, 20)
const CLIENTS = perLane(16, 500)

async function sceneWith(defaults: AppConfig = {}): Promise<[Scene, number]> {
  const port = await freePort()
  const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}`, server: 'https' as const }]
  const scene = Scene.open({ upgrade: { probation: 0, ...TIMES }, listeners, ...defaults })
  Object.assign(scene.defaults, makeCertificate(scene))
  return [scene, port]
}

/** Runs until the test has ended. */
function start(file: string, args: string[]): ChildProcess & { readonly text: () => string } {
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  for (const stream of [child.stdout!, child.stderr!])
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
    })
  onTestFinished(() => void child.kill('SIGKILL'))
  return Object.assign(child, { text: () => text })
}

describe('an https.Server whose TLS connections move', () => {
  it('keeps every connection of Node, Python and curl through upgrades', { timeout: 240_000 }, async () => {
    const [scene, port] = await sceneWith({ moveTls: true })
    let app = await scene.serve()
    const clients = Array.from({ length: CLIENTS }, () => new TlsClient(port))
    await Promise.all(clients.map(client => client.ask('/whoami')))
    let stopped = false
    const busy = clients.slice(0, CLIENTS / 4).map(async (client, i) => {
      for (let n = 0; !stopped; n++) {
        if (n % 4 === 3) expect(await client.ask(`/slow?ms=${20 + i}`)).toBe('slow but sure\n')
        else await client.ask('/whoami')
        if (i % 5 !== 0) await pause(i)
      }
    })
    const stop = scene.file('stop')
    const python = start('python3', [PYTHON_CLIENT, `${port}`, stop, '4'])
    await until('Python is connected', () => python.text().includes('connected'))
    const curl = start('curl', [
      '-sSk',
      '--rate',
      '20/s',
      '-w',
      'new: %{num_connects}\n',
      `https://127.0.0.1:${port}/whoami?[1-2000]`,
    ])
    await until('curl has asked', () => curl.text().includes('new'))
    const pids = [app.pid]
    for (let round = 0; round < UPGRADES; round++) {
      const next = await scene.serve()
      await app.end(BUSY_MS)
      app = next
      pids.push(app.pid)
    }
    stopped = true
    writeFileSync(stop, '')
    await Promise.all(busy)
    await until('Python has ended', () => python.exitCode !== null && python.text().includes('asked'))
    expect(python.text()).toMatch(/^connected\nasked \d+\n$/)
    expect(clients.filter(({ isClosed }) => isClosed)).toHaveLength(0)
    const answers = await Promise.all(clients.map(client => client.ask('/whoami')))
    expect(new Set(answers)).toEqual(new Set([`${UPGRADES + 1},${app.pid}\n`]))
    const lines = curl.text().split('\n')
    expect(lines.filter(line => line === 'new: 1')).toHaveLength(1)
    expect(lines.filter(line => /^(?:curl|new: [^01])/.test(line))).toEqual([])
    const last = lines.findLast(line => /^\d+,/.test(line))
    expect(last).toBe(`${UPGRADES + 1},${app.pid}`)
    const status = await app.status()
    expect(status.moves).toMatchObject({ lost: 0 })
    const shown = [JSON.stringify(status), ...scene.apps.map(({ output }) => output)].join('\n')
    const secrets = clients.flatMap(client => client.secrets)
    expect(secrets.length).toBeGreaterThan(4 * CLIENTS)
    expect(secrets.filter(secret => shown.includes(secret))).toEqual([])
  })
  it.runIf(NIGHTLY)(
    'keeps its connections through a rollback, also those that have moved before',
    {
      timeout: 120_000,
    },
    async () => {
      const [scene, port] = await sceneWith({ moveTls: true, upgrade: { ...TIMES, probation: 60_000 } })
      const first = await scene.serve()
      const clients = Array.from({ length: 20 }, () => new TlsClient(port))
      const askAll = () => Promise.all(clients.map(client => client.ask('/whoami')))
      const answeredBy = (app: App) =>
        until(`all are answered by ${app.name}`, async () =>
          (await askAll()).every(body => body.endsWith(`,${app.pid}\n`)),
        )
      await answeredBy(first)
      const second = await scene.serve()
      await answeredBy(second)
      clients.push(new TlsClient(port))
      await answeredBy(second)
      await scene.rollback()
      await answeredBy(first)
      expect(clients.filter(({ isClosed }) => isClosed)).toHaveLength(0)
      expect((await first.status()).moves).toMatchObject({ moved: 20, arrived: 21, lost: 0, refused: {} })
    },
  )

  it('lets TLS 1.2 end, and all if the next version takes no TLS: after an answer that says so', async () => {
    const [scene, port] = await sceneWith({ moveTls: true })
    const first = await scene.serve()
    const old = new TlsClient(port, { maxVersion: 'TLSv1.2' })
    const newer = new TlsClient(port)
    for (const client of [old, newer]) await client.ask('/whoami')
    const second = await scene.serve()
    await until('the connection has moved', async () => (await second.status()).moves?.arrived === 1)
    await until('the status says why the other one stays', async () => {
      const [old] = (await second.status()).draining
      return old?.connections === 1 && old.kinds?.['tls1.2'] === 1
    })
    const last = await old.answer('/whoami')
    expect(last.head).toContain('Connection: close')
    expect(last.body).toBe(`1,${first.pid}\n`)
    expect(await newer.ask('/whoami')).toBe(`2,${second.pid}\n`)
    const another = new TlsClient(port)
    await another.ask('/whoami')
    await scene.serve({ moveTls: false })
    await until(
      'both are refused',
      async () => (await second.status()).moves?.refused.ERR_FDB_NO_TARGET === 2,
    )
    for (const client of [newer, another]) {
      const { head, body } = await client.answer('/whoami')
      expect(head).toContain('Connection: close')
      expect(body).toBe(`2,${second.pid}\n`)
    }
    await second.end(BUSY_MS)
  })

  it('moves the first of them with the first of other servers, soon after the commit', async () => {
    const [scene, port] = await sceneWith({ moveTls: true, drain: { firstWave: 60_000 } })
    const plain = await freePort()
    // The plain connections are asked first.
    scene.defaults.listeners = [
      { name: 'plain', spec: `tcp://127.0.0.1:${plain}`, server: 'http' },
      ...scene.defaults.listeners!,
    ]
    await scene.serve()
    const agent = new Agent({ keepAlive: true })
    onTestFinished(() => agent.destroy())
    const connected = Array.from({ length: 20 }, async () => {
      // Slow, so that each has a connection.
      await ask(`http://127.0.0.1:${plain}/slow?ms=200`, { agent }).answer
      await new TlsClient(port).ask('/whoami')
    })
    await Promise.all(connected)
    const next = await scene.serve()
    await until('the first wave has come', async () => (await next.status()).moves?.arrived === 16)
    expect((await next.status()).moves).toMatchObject({ lost: 0, refused: {} })
  })

  it('moves those of an unchanged program with one setting', async () => {
    const program = await AutoProgram.of('', 'server.mjs', {
      env: { FD_BROKER_PROBATION: '200ms', FD_BROKER_TLS: 'move' },
    })
    const { cert, key } = makeCertificate(program.sandbox)
    program.write(
      'server.mjs',
      `import { readFileSync } from 'node:fs'
import https from 'node:https'
const options = { cert: readFileSync('${cert}'), key: readFileSync('${key}'), keepAliveTimeout: 120_000 }
https.createServer(options, (request, response) => response.end('pid ' + process.pid)).listen(8080)
`,
    )
    const first = await program.serve()
    const client = new TlsClient(program.port)
    expect(await client.ask('/')).toBe(`pid ${first}`)
    await program.command('upgrade')
    const second = await program.serves(2)
    await program.ends(first)
    expect(await client.ask('/')).toBe(`pid ${second}`)
  })
})
