import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { Edge } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'
import { aioquic } from '../processes/toolchains.js'
import { until } from '../processes/until.js'

const CONNECTIONS = 50
const UPGRADES = 20
const PROGRAM = fileURLToPath(new URL('../fixtures/quic.py', import.meta.url))

const AIOQUIC = aioquic(NIGHTLY)

/** The servers, questions and failure of one connection. */
interface Met {
  readonly servers: readonly number[]
  readonly asked: number
  readonly failed: string | null
}

/** Starts the program, and resolves when it has printed its first line. */
async function quic(...args: (string | number)[]) {
  const child = spawn('python3', [PROGRAM, ...args.map(String)], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, PYTHONPATH: AIOQUIC! },
  })
  onTestFinished(() => void child.kill())
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  await lines.next()
  return { child, next: async () => String((await lines.next()).value) }
}

describe.skipIf(AIOQUIC === null)('QUIC through a udp:// listener', () => {
  it('keeps each connection at its server through upgrades, and answers each question', async () => {
    const port = await freePort()
    const ports = [await freePort(), await freePort()]
    const edge = await Edge.prepare({
      listeners: [{ name: 'quic', address: `udp://127.0.0.1:${port}`, forward: 'quic' }],
      upstreams: { quic: { servers: ports.map(each => `udp://127.0.0.1:${each}`) } },
      upgrade: { probation: '0s' },
    })
    const { cert, key } = edge.issue('localhost')
    await quic('serve', cert, key, ...ports)
    await edge.next()
    const clients = await quic('talk', port, CONNECTIONS)
    for (let n = 0; n < UPGRADES; n++) await edge.next()
    await until('the last process has all flows', async () => {
      const { listeners } = await edge.status()
      return listeners[0]!.connections === CONNECTIONS
    })
    clients.child.stdin.end()
    const met = JSON.parse(await clients.next()) as Met[]
    await once(clients.child, 'exit')
    expect(met.filter(({ failed }) => failed !== null)).toEqual([])
    expect(met.filter(({ servers }) => servers.length !== 1)).toEqual([])
    expect(met).toHaveLength(CONNECTIONS)
    expect(Math.min(...met.map(({ asked }) => asked))).toBeGreaterThan(UPGRADES)
  }, 300_000)
})
