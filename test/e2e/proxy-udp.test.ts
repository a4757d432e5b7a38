import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { DatagramClient, DatagramEcho } from '../processes/datagrams.js'
import { Edge } from '../processes/edge.js'
import { signalPid } from '../processes/launch.js'
import { NameServer } from '../processes/name-server.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'

const FLOWS = perLane(20, 200)
const UPGRADES = perLane(3, 20)
/** Between two datagrams of a client. */
const PAUSE_MS = perLane(20, 250)

async function forwarding(
  servers: readonly DatagramEcho[],
  config: Record<string, unknown> = {},
  listener: object = {},
) {
  const port = await freePort()
  const edge = await Edge.prepare({
    upstreams: { echo: { servers: servers.map(({ url }) => url) } },
    accessLog: true,
    upgrade: { probation: '0s' },
    ...config,
  })
  edge.write({
    listeners: [{ name: 'echo', address: `udp://127.0.0.1:${port}`, forward: 'echo', ...listener }],
  })
  await edge.next()
  return { edge, port }
}

async function clients(count: number, port: number): Promise<DatagramClient[]> {
  return await Promise.all(Array.from({ length: count }, (_, i) => DatagramClient.open(`c${i}`, port)))
}

/** No client has got an answer of a second server, and no server has heard a client from a second port. */
function expectOneFlowEach(talking: readonly DatagramClient[], servers: readonly DatagramEcho[]): void {
  const several = talking.filter(client => client.servers.size !== 1).map(({ name }) => name)
  const ports = servers.flatMap(server => [...server.ports].filter(([, { size }]) => size !== 1))
  expect({ several, ports }).toEqual({ several: [], ports: [] })
}

/** All datagrams so far are answered. */
async function answered(talking: readonly DatagramClient[]): Promise<void> {
  await until(
    'each datagram is answered',
    () => talking.every(({ lost }) => lost.length === 0),
    5_000,
    () =>
      JSON.stringify(
        talking.filter(({ lost }) => lost.length > 0).map(({ name, lost }) => [name, lost.length]),
      ),
  )
}

async function echoes(...names: string[]): Promise<DatagramEcho[]> {
  return await Promise.all(names.map(name => DatagramEcho.start(name)))
}

describe('a udp:// listener', () => {
  it('keeps each flow at its server through upgrades: no datagram is lost or comes to another server', async () => {
    const servers = await echoes('one', 'two', 'three')
    const { edge, port } = await forwarding(servers)
    const talking = await clients(FLOWS, port)
    await Promise.all(talking.map(client => client.ask()))
    for (const client of talking) client.talk(PAUSE_MS)
    for (let n = 0; n < UPGRADES; n++) {
      await edge.next()
      const late = await DatagramClient.open(`late${n}`, port)
      late.talk(PAUSE_MS)
      talking.push(late)
    }
    const { pid } = await edge.status()
    await until('the last process has all flows', async () => {
      const { listeners } = await edge.status()
      return listeners[0]!.connections === talking.length
    })
    for (const client of talking) client.stop()
    await answered(talking)
    expectOneFlowEach(talking, servers)
    expect(await edge.pid).toBe(pid)
    expect(talking.reduce((sum, { sent }) => sum + sent, 0)).toBeGreaterThan(FLOWS * UPGRADES)
  }, 300_000)

  it('goes on in the previous version with the same flows when the next one is killed in its probation', async () => {
    const servers = await echoes('one', 'two', 'three')
    const { edge, port } = await forwarding(servers, { upgrade: { probation: '1m' } })
    const first = await edge.pid
    const talking = await clients(10, port)
    await Promise.all(talking.map(client => client.ask()))
    const second = await edge.next()
    await until('the flows have moved', async () => {
      const { listeners } = await edge.status()
      return listeners[0]!.connections === talking.length
    })
    await Promise.all(talking.map(client => client.ask()))
    signalPid(second, 'SIGKILL')
    await until('the first process serves again', async () => (await edge.pid.catch(() => 0)) === first)
    await Promise.all(talking.map(client => client.ask()))
    expectOneFlowEach(talking, servers)
  })

  it('ends when a reload removes it in the probation, and opens again after that', async () => {
    const [server] = await echoes('one')
    const { edge, port } = await forwarding([server!], { upgrade: { probation: '1s' } })
    const first = await edge.pid
    const client = await DatagramClient.open('client', port)
    await client.ask()
    await edge.next()
    // A flow that the listener's removal finds in the previous version goes on there for as long as the client sends.
    await until('the flow has moved', async () => (await edge.status()).listeners[0]!.connections === 1)
    const { listeners } = edge.config
    await edge.reload({ listeners: [{ name: 'http', address: `tcp://127.0.0.1:${edge.port}` }] })
    const { heard } = server!
    const sends = setInterval(() => client.say(), 50)
    await edge.ended(first)
    clearInterval(sends)
    expect(server!.heard).toBe(heard)
    expect((await edge.reload({ listeners })).msg).toBe('the configuration was read again')
    client.forget()
    await client.ask()
  })

  it('sends all datagrams of a client to another server if the name of the first one has no address', async () => {
    const [server] = await echoes('one')
    const names = await NameServer.start({})
    const { port } = await forwarding([server!], {
      upstreams: { echo: { servers: ['udp://nowhere.test:53', server!.url] } },
      resolver: { servers: [names.address] },
    })
    const talking = await clients(4, port)
    for (const client of talking) for (let n = 0; n < 3; n++) client.say()
    await answered(talking)
    expectOneFlowEach(talking, [server!])
  })

  it.runIf(NIGHTLY)('gives its flows back when it is rolled back', async () => {
    const servers = await echoes('one', 'two', 'three')
    const { edge, port } = await forwarding(servers, { upgrade: { probation: '1m' } })
    const first = await edge.pid
    const talking = await clients(20, port)
    await Promise.all(talking.map(client => client.ask()))
    for (const client of talking) client.talk(10)
    await edge.next()
    await until('the flows have moved', async () => {
      const { listeners } = await edge.status()
      return listeners[0]!.connections === talking.length
    })
    const late = await DatagramClient.open('late', port)
    talking.push(late)
    await late.ask()
    await edge.sandbox.run('rollback', '--control', edge.sandbox.control)
    await until('the first process serves again with all flows', async () => {
      const { pid, listeners } = await edge.status()
      return pid === first && listeners[0]!.connections === talking.length
    })
    for (const client of talking) client.stop()
    await answered(talking)
    expectOneFlowEach(talking, servers)
  })
})
