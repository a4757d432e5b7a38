import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { describe, expect, it, onTestFinished } from 'vitest'
import { pageText } from '../pages/blocks.js'
import { ask } from '../processes/client.js'
import { CountingClients } from '../processes/counting-clients.js'
import { Edge, upstream } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'
import { has } from '../processes/toolchains.js'
import { until } from '../processes/until.js'

/** The lines of HAProxy on the page. */
const [, CHECK = '', SERVER = ''] =
  /HAProxy: `(option httpchk [^`]*)` and `(check [^`]*)`/.exec(pageText('docs/fleet.md')) ?? []

describe.skipIf(!has('haproxy'))('a machine that leaves HAProxy before a reboot', () => {
  it('leaves no request of a client unanswered', async () => {
    const app = await upstream()
    const machines = await Promise.all(
      [1, 2].map(() =>
        Edge.start({
          ready: '/healthz',
          upstreams: { app: { servers: [app.url] } },
          routes: [
            { host: '*', upstream: 'app' },
            { host: '*', path: '/gone', respond: { status: 410 } },
          ],
        }),
      ),
    )
    const first = machines[0]!
    const port = await freePort()
    const file = first.sandbox.file('haproxy.cfg')
    const servers = machines.map(({ port }, n) => `  server edge-${n} 127.0.0.1:${port} ${SERVER}`)
    writeFileSync(
      file,
      `defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
frontend web
  bind 127.0.0.1:${port}
  default_backend machines
backend machines
  ${CHECK}
${servers.join('\n')}
`,
    )
    const haproxy = spawn('haproxy', ['-db', '-f', file], { stdio: 'ignore' })
    onTestFinished(() => void haproxy.kill('SIGKILL'))
    const url = `http://127.0.0.1:${port}`
    await until(
      'HAProxy answers',
      async () => (await ask(`${url}/r/1`).answer.catch(() => null))?.status === 200,
    )
    const clients = new CountingClients(url)
    const served = async (pid: number) => {
      clients.pids.clear()
      await until('the machine answers', () => clients.pids.has(`${pid}`), 20_000)
    }
    for (const machine of machines) await served(await machine.pid)
    const drained = await first.sandbox.run('drain', '--control', first.sandbox.control)
    expect(drained).toMatchObject({ code: 0, stderr: '' })
    clients.pids.clear()
    const before = clients.answers
    await until('clients are answered', () => clients.answers > before + 500, 20_000)
    expect([...clients.pids]).toEqual([`${await machines[1]!.pid}`])
    const pid = await first.pid
    await first.signal('SIGTERM')
    await first.ended(pid)
    await served(await machines[1]!.pid)
    await served(await first.next())
    await clients.stop()
    console.log(JSON.stringify({ answers: clients.answers }))
  })
})
