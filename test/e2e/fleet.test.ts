import { writeFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { pageText } from '../pages/blocks.js'
import { CountingClients } from '../processes/counting-clients.js'
import { Edge, upstream } from '../processes/edge.js'
import { present } from '../processes/release.js'
import { until } from '../processes/until.js'

const READY = { host: '*', path: '/healthz', respond: { body: 'ready' } }

const listenersOf = ({ port }: Edge) => ({
  listeners: [{ name: 'http', address: `tcp://127.0.0.1:${port}` }],
})

/** A machine's proxy, which answers the checks of a balancer. */
async function machine(app: string): Promise<Edge> {
  const edge = await Edge.prepare({
    upgrade: { probation: '500ms', heartbeat: '50ms' },
    upstreams: { app: { servers: [app] } },
    routes: [{ host: '*', upstream: 'app' }, { host: '*', path: '/gone', respond: { status: 410 } }, READY],
  })
  await edge.next()
  return edge
}

/** The text of the first block of a shell on the page that has `part`. */
function blockWith(part: string): string {
  return (
    [...pageText('docs/fleet.md').matchAll(/```sh\n(.*?)```/gs)].find(([, text]) =>
      text?.includes(part),
    )?.[1] ?? ''
  )
}

/** Stands for ssh: the machine is a variable with the path of a control socket. */
const SSH = `ssh() {
  local name=\${1//-/_} i; shift 2; local words=("$@")
  for i in "\${!words[@]}"; do
    if [ "\${words[i]}" = --service ]; then words[i]=--control; words[i+1]=\${!name}; fi
  done
  "${process.execPath}" "${present.cli.at(-1)}" "\${words[@]}"
}
sleep() { command sleep 2; }
`

describe('a version for all machines, as docs/fleet.md says', () => {
  it('stops at the first machine whose next version fails', async () => {
    const app = await upstream()
    const machines = [await machine(app.url), await machine(app.url), await machine(app.url)]
    const clients = machines.map(({ url }) => new CountingClients(url))
    machines[1]!.write({ listeners: 'none' })
    const controls = machines.map(({ sandbox }, n) => `edge_${n + 1}=${sandbox.control}`)
    const generations = () => Promise.all(machines.map(async edge => (await edge.status()).generation))
    const roll = () =>
      machines[0]!.sandbox.runCommand([
        'bash',
        '-c',
        `${controls.join('; ')}\n${SSH}${blockWith('for machine')}`,
      ])
    expect((await roll()).stderr).toContain('listeners')
    expect(await generations()).toEqual([2, 1, 1])
    machines[1]!.write(listenersOf(machines[1]!))
    await roll()
    expect(await generations()).toEqual([3, 2, 2])
    for (const each of clients) await each.stop()
  })
})

describe('a machine that leaves before a reboot, as docs/fleet.md says', () => {
  it('gets no requests when the balancer’s checks fail, and no client notices', async () => {
    const app = await upstream()
    const machines = [await machine(app.url), await machine(app.url)]
    const [first] = machines
    const check = { http: '/healthz', interval: '50ms', rise: 2, fall: 2 }
    const balancer = await Edge.start({
      upstreams: { machines: { servers: machines.map(({ url }) => url), check } },
      routes: [{ host: '*', upstream: 'machines' }],
    })
    const out = async () => ((await balancer.status()).details?.serversOut as { server: string }[]) ?? []
    const clients = new CountingClients(balancer.url)
    const more = async () => {
      const before = clients.answers
      await until('clients are answered', () => clients.answers > before + 50, 20_000)
    }
    await more()
    const [leaving = ''] = /^\[\{.*\}\]$/m.exec(pageText('docs/fleet.md')) ?? []
    const file = first!.sandbox.file('leaving.json')
    writeFileSync(file, leaving)
    expect(await first!.routes('add', '--file', file)).toMatchObject({ code: 0, stderr: '' })
    await until('the balancer has noticed', async () => (await out())[0]?.server === first!.url, 20_000)
    await more()
    const pid = await first!.pid
    const stopped = await first!.sandbox.run('stop', '--control', first!.sandbox.control)
    expect(stopped.code).toBe(0)
    await first!.ended(pid)
    await more()
    await first!.next()
    await until('the balancer uses it again', async () => (await out()).length === 0, 20_000)
    await more()
    await clients.stop()
  })
})
