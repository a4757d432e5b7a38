import { statSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import type { ListedRoute } from '../../src/proxy/routes/live-routes.js'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge, upstream } from '../processes/edge.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { until } from '../processes/until.js'

it.runIf(NIGHTLY)(
  'a proxy with a state file has the routes of run time after a reboot, and those of its file as they are then',
  async () => {
    const app = await upstream()
    const edge = await Edge.prepare({
      upstreams: { app: { servers: [app.url] } },
      routes: [
        { host: 'old.test', respond: { body: 'of the file\n' } },
        { host: 'stays.test', respond: { body: 'stays\n' } },
      ],
    })
    const path = join(edge.sandbox.folder, 'state')
    edge.write({ stateFile: path })
    const first = await edge.next()
    expect((await edge.routes('add', '--host', 'run.test', '--path', '/', '--upstream', 'app')).stdout).toBe(
      '1 added\n',
    )
    const second = await edge.next()
    await edge.stateWritten()
    expect(statSync(path).mode & 0o007).toBe(0)
    for (const pid of [first, second]) {
      if (!hasEnded(pid)) signalPid(pid, 'SIGKILL')
      await until('it has ended', () => hasEnded(pid))
    }
    edge.write({
      routes: [
        { host: 'new.test', respond: { body: 'new\n' } },
        { host: 'stays.test', respond: { body: 'stays\n' } },
      ],
    })
    await edge.next()
    const listed = JSON.parse((await edge.routes('list', '--json')).stdout) as ListedRoute[]
    expect(listed.map(({ host, origin }) => `${host} ${origin}`).sort()).toEqual([
      'new.test file',
      'run.test runtime',
      'stays.test file',
    ])
    const status = async (host: string) => (await ask(`${edge.url}/r/1`, { headers: { host } }).answer).status
    expect(await Promise.all(['run.test', 'new.test', 'stays.test', 'old.test'].map(status))).toEqual([
      200, 200, 200, 404,
    ])
    const { stdout } = await edge.sandbox.run('state', 'verify', '--file', path, '--json')
    expect(JSON.parse(stdout)).toMatchObject({ ok: true, digest: (await edge.status()).state.digest })
  },
)
