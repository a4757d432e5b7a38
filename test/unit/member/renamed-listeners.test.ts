import { existsSync } from 'node:fs'
import http from 'node:http'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join, type Member } from '../../../src/index.js'
import { startDaemon } from '../../processes/daemon.js'
import { freePort, Scene } from '../../processes/scene.js'
import { until } from '../../processes/until.js'

const UPGRADE = { probation: 50, heartbeat: 20, silence: 2_000 }

interface Service {
  readonly scene: Scene
  /** Joins, listens by these names, each with a server that says `who` and the name; ready. */
  version(who: string, listeners: Record<string, string>): Promise<Member>
}

async function service(hosting: 'embedded' | 'daemon'): Promise<Service> {
  const scene = Scene.open({ hosting, upgrade: UPGRADE })
  if (hosting === 'daemon') await startDaemon(scene)
  let last: Member | null = null
  return {
    scene,
    version: async (who, listeners) => {
      const member = await join({ service: 'shop', control: scene.control, hosting, upgrade: UPGRADE })
      onTestFinished(() => member.close({ timeout: 0 }))
      for (const [name, spec] of Object.entries(listeners)) {
        const listener = await member.listen(name, spec)
        listener.serve(
          http.createServer((_request, response) => response.end(`${who} ${name} ${listener.adopted}`)),
        )
      }
      await member.ready()
      const before = last
      last = member
      await until('the version before has left', () => before === null || before.phase === 'gone')
      return member
    },
  }
}

async function ask(
  where: ({ port: number } | { socketPath: string }) & { agent?: http.Agent },
): Promise<string> {
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    http.get({ host: '127.0.0.1', agent: false, timeout: 5_000, ...where }, resolve).once('error', reject)
  })
  return await text(response)
}

/** A client that asks over one connection for as long as that lasts. */
function keptClient(port: number): { ask(): Promise<string>; connections: number } {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  onTestFinished(() => agent.destroy())
  const client = { ask: () => ask({ port, agent }), connections: 0 }
  const { createConnection } = agent
  agent.createConnection = (...args) => {
    client.connections++
    return createConnection.apply(agent, args)
  }
  return client
}

const at = (port: number) => `tcp://127.0.0.1:${port}`

describe.each(['embedded', 'daemon'] as const)('the next version, %s hosting,', hosting => {
  it('adopts an address that neither version names, and one that only the old one named', async () => {
    const { scene, version } = await service(hosting)
    const [one, two] = [await freePort(), await freePort()]
    const first = await version('v1', { [at(one)]: at(one), web: at(two) })
    const second = await join({ service: 'shop', control: scene.control, hosting, upgrade: UPGRADE })
    onTestFinished(() => second.close({ timeout: 0 }))
    const listeners = [
      await second.listen(at(one)),
      await second.listen({ kind: 'tcp', host: '127.0.0.1', port: two }),
    ]
    for (const listener of listeners)
      listener.serve(
        http.createServer((_request, response) => response.end(`v2 ${listener.name} ${listener.adopted}`)),
      )
    await expect(second.listen(at(one))).rejects.toMatchObject({ code: 'ERR_FDB_LISTENER_TWICE' })
    await second.ready()
    await until('the version before has left', () => first.phase === 'gone')
    expect([await ask({ port: one }), await ask({ port: two })]).toEqual([
      `v2 ${at(one)} true`,
      `v2 ${at(two)} true`,
    ])
  })

  it('has two addresses under swapped names', async () => {
    const { version } = await service(hosting)
    const [one, two] = [await freePort(), await freePort()]
    await version('v1', { web: at(one), admin: at(two) })
    await version('v2', { web: at(two), admin: at(one) })
    expect([await ask({ port: one }), await ask({ port: two })]).toEqual(['v2 admin true', 'v2 web true'])
    await version('v3', { web: at(one), admin: at(two) })
    expect([await ask({ port: one }), await ask({ port: two })]).toEqual(['v3 web true', 'v3 admin true'])
  })

  it('has an address under another name, and a Unix path that stays', async () => {
    const { scene, version } = await service(hosting)
    const [port, socketPath] = [await freePort(), scene.file('web.sock')]
    await version('v1', { tcp: at(port), path: `unix:${socketPath}` })
    const member = await version('v2', { http: at(port), local: `unix:${socketPath}` })
    expect(existsSync(socketPath)).toBe(true)
    expect([await ask({ port }), await ask({ socketPath })]).toEqual(['v2 http true', 'v2 local true'])
    const names = () => member.status().listeners.map(({ name }) => name)
    // The daemon lets go of those that the new version did not ask for, and says so.
    await until(
      'only the new names are there',
      () => names().toSorted().join() === 'http,local',
      undefined,
      names,
    )
  })

  it('has a name at a new address, and what had that name under another', async () => {
    const { version } = await service(hosting)
    const [one, two] = [await freePort(), await freePort()]
    await version('v1', { web: at(one) })
    await version('v2', { web: at(two), old: at(one) })
    expect([await ask({ port: one }), await ask({ port: two })]).toEqual(['v2 old true', 'v2 web false'])
  })

  it('cannot have an address under two names', async () => {
    const { version } = await service(hosting)
    const port = await freePort()
    await version('v1', { web: at(port) })
    await expect(version('v2', { http: at(port), web: at(port) })).rejects.toMatchObject({
      code: 'ERR_FDB_ADDRESS_IN_USE',
    })
    expect(await ask({ port })).toBe('v1 web false')
  })

  it('learns that only a next version can give a listener another name', async () => {
    const { version } = await service(hosting)
    const port = await freePort()
    const first = await version('v1', { web: at(port) })
    await expect(first.relisten('http', at(port))).rejects.toMatchObject({
      code: 'ERR_FDB_ADDRESS_IN_USE',
      message: expect.stringMatching(/is the address of the listener "web" of this service/),
    })
    expect(await ask({ port })).toBe('v1 web false')
    await version('v2', { http: at(port) })
    expect(await ask({ port })).toBe('v2 http true')
  })

  it('learns of the listener in the way if it wants a wider or narrower address at the same port', async () => {
    const { scene, version } = await service(hosting)
    const port = await freePort()
    const first = await version('v1', { web: at(port) })
    const second = await join({ service: 'shop', control: scene.control, hosting, upgrade: UPGRADE })
    onTestFinished(() => second.close({ timeout: 0 }))
    const refused = {
      code: 'ERR_FDB_ADDRESS_IN_USE',
      message: expect.stringMatching(
        /overlaps the listener "web" of this service .*Listen at the same address or/,
      ),
      details: { listener: 'web' },
    }
    await expect(second.listen('web', `tcp://0.0.0.0:${port}`)).rejects.toMatchObject(refused)
    await expect(first.relisten('web', `tcp://0.0.0.0:${port}`)).rejects.toMatchObject(refused)
    expect(first.phase).toBe('serving')
    expect(await ask({ port })).toBe('v1 web false')
  })
})

describe('the next version', () => {
  it('answers the open connections of two listeners of one address by the server of each name', async () => {
    const { version } = await service('embedded')
    const address = `${at(await freePort())}?reusePort`
    const port = Number(new URL(address).port)
    await version('v1', { web: address, admin: address })
    const clients = Array.from({ length: 12 }, () => keptClient(port))
    const all = () => Promise.all(clients.map(client => client.ask()))
    const before = await all()
    await version('v2', { admin: address, web: address })
    expect(await all()).toEqual(before.map(answer => answer.replace('v1', 'v2').replace('false', 'true')))
  })

  it('answers the open connections of each address by the server of that address, whatever its name', async () => {
    const { version } = await service('embedded')
    const [one, two] = [await freePort(), await freePort()]
    await version('v1', { web: at(one), admin: at(two) })
    const [public_, private_] = [keptClient(one), keptClient(two)]
    const both = async () => [await public_.ask(), await private_.ask()]
    expect(await both()).toEqual(['v1 web false', 'v1 admin false'])
    await version('v2', { web: at(two), admin: at(one) })
    expect(await both()).toEqual(['v2 admin true', 'v2 web true'])
    await version('v3', { web: at(two), front: at(one) })
    expect(await both()).toEqual(['v3 front true', 'v3 web true'])
    expect([public_.connections, private_.connections]).toEqual([1, 1])
  })
})
