import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { Edge, upstream } from '../processes/edge.js'
import { hasEnded } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { PidNamespace } from '../processes/namespace.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { Sandbox, SHOP, whoami } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
/** `npm run soak -- containers` does 20. */
const ASKED = process.env.FD_BROKER_CONTAINER_UPGRADES
const UPGRADES = Number(ASKED ?? 2)
const CLIENTS = { streams: 0, idle: 0 }

/** A container whose PID 1 is this command, which serves there; it is upgraded under load, and told to end. */
async function contained(command: readonly string[], sandbox: Sandbox, url: string) {
  const container = await PidNamespace.start(command, { env: sandbox.env, log: sandbox.log })
  const serves = async (generation: number) =>
    await sandbox.statusWhere(
      `generation ${generation} serves`,
      status => status.generation === generation && status.role === 'serving',
    )
  await serves(1)
  return {
    container,
    /** Resolves with the number of the last one inside. */
    async upgradeUnderLoad(clients: object): Promise<number> {
      const load = await loadOn(url, { ...CLIENTS, ...clients })
      let last = 1
      for (let generation = 2; generation <= 1 + UPGRADES; generation++) {
        using client = await OperatorClient.connect(sandbox.control)
        const upgraded = await client.upgrade({ timeoutMs: 20_000 })
        expect(upgraded.generation).toBe(generation)
        last = upgraded.pid
      }
      await load.stop()
      await serves(1 + UPGRADES)
      expect(hasEnded(container.init)).toBe(false)
      return last
    },
  }
}

describe(`a container that is upgraded ${UPGRADES} times under load, whose PID 1 never ends`, () => {
  // test/e2e/main-process.test.ts does three, and more.
  it.skipIf(ASKED === undefined)(
    'fd-broker proxy: no request fails; TERM ends all in order',
    { timeout: 300_000 },
    async () => {
      const app = await upstream()
      const edge = await Edge.prepare({
        upstreams: { app: { servers: [app.url] } },
        routes: [{ host: '*', upstream: 'app' }],
        upgrade: { probation: '0s' },
      })
      const command = [process.execPath, CLI, 'proxy', '--config', edge.file]
      const { container, upgradeUnderLoad } = await contained(command, edge.sandbox, edge.url)
      const last = await upgradeUnderLoad({ writes: 0 })
      await until(
        'PID 1 and the last version are all there is',
        () => [...container.processes.keys()].sort((a, b) => a - b).join() === `1,${last}`,
        20_000,
        () => [...container.processes],
      )
      container.signal('SIGTERM')
      expect(await container.exit).toBe(0)
      await edge.logged('the proxy has ended', line => line.pid === last && line.why === 'closed')
    },
  )

  it.runIf(NIGHTLY)(
    'the shop example: no request fails; TERM ends all in order',
    { timeout: 300_000 },
    async () => {
      const sandbox = Sandbox.open()
      const port = await freePort()
      const url = `http://127.0.0.1:${port}`
      const args = ['--control', sandbox.control, '--listen', `tcp://127.0.0.1:${port}`, '--routes', '100']
      const { container, upgradeUnderLoad } = await contained([process.execPath, SHOP, ...args], sandbox, url)
      const last = await upgradeUnderLoad(perLane({ rate: 100 }, {}))
      await until('the last one answers', async () => (await whoami(url)).pid === last)
      container.signal('SIGTERM')
      expect(await container.exit).toBe(0)
      expect(sandbox.output).toMatch(
        new RegExp(`generation ${1 + UPGRADES} \\(pid ${last}\\) is done: closed`),
      )
    },
  )
})

it('fd-broker stop ends a service of a PID namespace below, and names its process by the pid here', async () => {
  const sandbox = Sandbox.open()
  const args = ['--control', sandbox.control, '--listen', 'tcp://127.0.0.1:0', '--routes', '1']
  const { container } = await contained([process.execPath, SHOP, ...args], sandbox, '')
  const { init } = container
  const ran = await sandbox.run('stop', '--control', sandbox.control, '--json')
  expect(ran).toMatchObject({ code: 0, stderr: '' })
  expect(JSON.parse(ran.stdout)).toMatchObject({ ok: true, pid: init })
  expect(await container.exit).toBe(0)
})
