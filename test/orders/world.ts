import { once } from 'node:events'
import http from 'node:http'
import https from 'node:https'
import { connect } from 'node:net'
import { onTestFinished } from 'vitest'
import type { StatusAnswer } from '../../src/operator/status-report.js'
import type { App, AppConfig } from '../processes/app.js'
import { makeCertificate } from '../processes/certificate.js'
import { startDaemon } from '../processes/daemon.js'
import { NotifyRecorder } from '../processes/notify-socket.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

export const FOR_EVER_MS = 60_000
/** Connections of {@link World.connectMany}. */
const MANY = 100
/** Nothing passes by itself while an order is looked at. */
export const SLOW = {
  quiesce: FOR_EVER_MS,
  freeze: FOR_EVER_MS,
  prepare: FOR_EVER_MS,
  commit: FOR_EVER_MS,
  probation: 10 * FOR_EVER_MS,
  heartbeat: 200,
  silence: 40_000,
}

export type MemberHosting = 'embedded' | 'daemon'

/** The processes of one service, with two listeners of which the second speaks TLS, and a recorder of what they tell their service manager. */
export class World {
  readonly hosting: MemberHosting
  readonly scene: Scene
  readonly manager: NotifyRecorder
  /** The ports of the listeners "web" and "secure". */
  readonly ports: readonly [number, number]
  readonly #config: AppConfig
  readonly #requests: http.ClientRequest[] = []
  daemon: App | null = null

  private constructor(hosting: MemberHosting, ports: World['ports'], config: AppConfig, keepsState: boolean) {
    this.hosting = hosting
    this.ports = ports
    const [web, secure] = ports
    this.#config = {
      hosting,
      ...config,
      options: { systemd: 'auto', ...config.options },
      listeners: [
        { name: 'web', spec: `tcp://127.0.0.1:${web}` },
        { name: 'secure', spec: `tcp://127.0.0.1:${secure}`, server: 'https' },
      ],
    }
    this.scene = Scene.open(this.#config)
    if (keepsState) this.#config.options = { ...this.#config.options, stateFile: this.scene.file('state') }
    this.manager = NotifyRecorder.open(this.scene.folder)
    Object.assign(this.#config, makeCertificate(this.scene))
  }

  /** `config`: of each process, unless it is started with another one. `keepsState`: the state is in a file. */
  static async open(hosting: MemberHosting, config: AppConfig, keepsState = false): Promise<World> {
    const world = new World(hosting, [await freePort(), await freePort()], config, keepsState)
    if (hosting === 'daemon')
      world.daemon = await startDaemon(world.scene, { ...(config.upgrade && { upgrade: config.upgrade }) })
    return world
  }

  get url(): string {
    return `http://127.0.0.1:${this.ports[0]}`
  }

  start(config: AppConfig = {}): Promise<App> {
    return this.scene.start({ ...this.#config, ...config }, { env: { ...this.manager.env } })
  }

  async serve(config: AppConfig = {}): Promise<App> {
    return await (await this.start(config)).serving()
  }

  /** Sends two requests that are not answered for a minute, one over TLS, to the process that serves. */
  async occupy(): Promise<void> {
    const where = { host: '127.0.0.1', path: `/stream?lines=${FOR_EVER_MS / 100}`, agent: false } as const
    const [web, secure] = this.ports
    const plain = http.get({ ...where, port: web })
    const overTls = https.get({ ...where, port: secure, rejectUnauthorized: false })
    this.#requests.push(...[plain, overTls].map(request => request.on('error', () => {})))
    await until('both requests are under way', async () => {
      const status = (await Promise.all(this.scene.apps.map(app => app.status().catch(() => null)))) as never
      return (status as ({ listeners: { connections: number }[] } | null)[]).some(
        report => report?.listeners.every(({ connections }) => connections > 0) ?? false,
      )
    })
  }

  /** Opens connections with one answered request each: more than move while an order is looked at. A few ask again after each answer. */
  async connectMany(): Promise<void> {
    const [port] = this.ports
    const clients = Array.from({ length: MANY }, (_, i) => keepConnected(port, i % 10 === 0))
    await Promise.all(clients)
  }

  /** Waits until the first connections have moved to the process that serves. */
  async movesBegin(): Promise<void> {
    await this.scene.statusWhere('connections move', (answer: StatusAnswer) => {
      const service = 'services' in answer ? answer.services[0] : answer
      return (service?.moves?.arrived ?? 0) > 0
    })
  }

  /** Ends the requests of {@link occupy}. */
  vacate(): void {
    for (const request of this.#requests.splice(0)) request.destroy()
  }
}

const REQUEST = 'GET / HTTP/1.1\r\nHost: shop\r\n\r\n'
/** A client asks again so long after an answer. */
const PAUSE_MS = 20

/** Opens a connection, and resolves when its first request is answered. `asks`: sends another request after each answer. */
async function keepConnected(port: number, asks: boolean): Promise<void> {
  const socket = connect(port, '127.0.0.1')
  onTestFinished(() => void socket.destroy())
  socket.on('error', () => {})
  socket.write(REQUEST)
  await once(socket, 'data')
  if (!asks) return
  socket.on('data', () => setTimeout(() => socket.write(REQUEST), PAUSE_MS))
  socket.write(REQUEST)
}

/** The name of the service, for a daemon. */
export function serviceOf({ hosting }: World): string {
  return hosting === 'daemon' ? 'shop' : ''
}

export async function inPhase(app: App, phase: string): Promise<App> {
  await until(`${app.name} is ${phase}`, async () => (await app.order('phase')) === phase)
  return app
}
