import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import type { App } from '../processes/app.js'
import { issue } from '../processes/certificate.js'
import { ask } from '../processes/client.js'
import { startDaemon } from '../processes/daemon.js'
import { upstream } from '../processes/edge.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const PROGRAM = fileURLToPath(new URL('../fixtures/follow-proxy.mjs', import.meta.url))

/** Several proxies that have one state, and share their ports. */
class Workers {
  readonly scene: Scene
  readonly port: number
  readonly apps: App[] = []
  #config: Record<string, unknown>

  private constructor(scene: Scene, port: number, config: Record<string, unknown>) {
    this.scene = scene
    this.port = port
    this.#config = {
      service: 'edge',
      control: scene.control,
      instanceHeader: 'X-Pid',
      listeners: [this.listener('http', port)],
      upgrade: { probation: '0s' },
      ...config,
    }
  }

  static async start(count: number, config: Record<string, unknown>): Promise<Workers> {
    const scene = Scene.open()
    await startDaemon(scene)
    const workers = new Workers(scene, await freePort(), config)
    workers.write({})
    for (let slot = 0; slot < count; slot++) workers.apps.push(await workers.begin(slot))
    return workers
  }

  listener(name: string, port: number, rest: object = {}): object {
    return { name, address: `tcp://127.0.0.1:${port}?reusePort`, ...rest }
  }

  async begin(slot: number): Promise<App> {
    const place = slot === 0 ? ['edge'] : [`edge.${slot}`, 'edge']
    const app = await this.scene.start({}, { command: [PROGRAM, this.scene.file('edge.json'), ...place] })
    return await app.serving()
  }

  /** The file, with these keys changed. */
  write(changes: Record<string, unknown>): void {
    this.#config = { ...this.#config, ...changes }
    this.scene.write('edge.json', JSON.stringify(this.#config))
  }

  /** A worker's answer; the kernel says which of them is asked. */
  async answer(app: App, host: string, { port = this.port, header = 'x-pid' } = {}): Promise<string> {
    return await until(`process ${app.pid} is asked`, async () => {
      const { status, body, headers } = await ask(`http://127.0.0.1:${port}/`, {
        headers: { host },
      }).answer
      return headers[header] === String(app.pid) ? `${status} ${body}` : null
    })
  }

  /** All of them answer so, soon. */
  async all(host: string, answer: string, options: { port?: number; header?: string } = {}): Promise<void> {
    for (const app of this.apps) {
      await until(
        `process ${app.pid} answers ${JSON.stringify(answer)} for ${host}`,
        async () => (await this.answer(app, host, options).catch(() => '')) === answer,
        20_000,
        () => app.output,
      )
    }
  }

  async command(slot: number, name: string, body: string): Promise<string> {
    using client = await OperatorClient.connect(this.scene.control)
    const service = slot === 0 ? 'edge' : `edge.${slot}`
    return (await client.command(name, body, { service })).toString()
  }
}

const respond = (host: string, body: string) => ({ host, respond: { body } })

describe('proxies that have the state of another', () => {
  it('answer by its routes, by each that is made through any of them, and by what it reads anew', async () => {
    const app = await upstream('first')
    const workers = await Workers.start(3, { routes: [respond('file.test', 'of the file\n')] })
    await workers.all('file.test', '200 of the file\n')
    for (const slot of [0, 1, 2]) {
      const host = `made-${slot}.test`
      const lines = `{}\n${JSON.stringify(respond(host, `by ${slot}\n`))}\n`
      expect(JSON.parse(await workers.command(slot, 'routes.add', lines))).toMatchObject({ added: 1 })
      await workers.all(host, `200 by ${slot}\n`)
    }
    const second = await freePort()
    const secure = await freePort()
    workers.write({
      instanceHeader: 'X-Worker',
      listeners: [
        workers.listener('http', workers.port),
        workers.listener('more', second),
        workers.listener('tls', secure, { tls: true }),
      ],
      tls: { certificates: [issue(workers.scene.folder, 'site', ['site.test'])] },
      upstreams: { app: { servers: [app.url] } },
      routes: [respond('new.test', 'new\n'), { host: '*', upstream: 'app' }],
    })
    workers.apps[0]!.signal('SIGHUP')
    await workers.apps[0]!.says('reloaded')
    await workers.all('new.test', '200 new\n', { port: second, header: 'x-worker' })
    // A worker's replacement has the routes that were read, and those that were made.
    await workers.apps[2]!.kill()
    workers.apps[2] = await workers.begin(2)
    await workers.all('made-2.test', '200 by 2\n', { header: 'x-worker' })
    const made = new Set<number>()
    for (const slot of [0, 1, 2]) {
      const { certificates, ticketKeys } = JSON.parse(await workers.command(slot, 'certificates.list', ''))
      expect(certificates).toMatchObject([{ name: 'site.test', inForce: ['site.test'], standard: true }])
      made.add(ticketKeys.created)
    }
    // One of them has made the keys for tickets.
    expect(made.size).toBe(1)
    // And what it does not have any more is gone.
    workers.write({ listeners: [workers.listener('http', workers.port)], routes: [respond('*', 'all\n')] })
    workers.apps[0]!.signal('SIGHUP')
    await workers.all('any.test', '200 all\n', { header: 'x-worker' })
    const gone = () =>
      ask(`http://127.0.0.1:${second}/`).answer.then(
        () => false,
        () => true,
      )
    await until(`nobody listens on ${second}`, gone, 20_000)
  })
})
