import { writeFileSync } from 'node:fs'
import https from 'node:https'
import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { STOP, stopBody } from '../../src/operator/service-commands.js'
import { perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { makeCertificate } from '../processes/certificate.js'
import { ask } from '../processes/client.js'
import { startDaemon } from '../processes/daemon.js'
import { NotifyRecorder } from '../processes/notify-socket.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

/** The time that is ordered. The connections of each process would last far longer. */
const ORDERED_MS = 700
const FOR_EVER_MS = 60_000
/** Nothing passes by itself while an order is looked at. */
const SLOW = { probation: 60_000, freeze: 60_000, prepare: 60_000, heartbeat: 4_000, silence: 20_000 }
const QUICK = { probation: 60_000, heartbeat: 50, silence: 1_000 }

type Hosting = 'embedded' | 'daemon'

class World {
  readonly hosting: Hosting
  readonly scene: Scene
  readonly manager: NotifyRecorder
  readonly #ports: readonly number[]
  readonly #config: AppConfig
  daemon: App | null = null

  private constructor(
    hosting: Hosting,
    ports: readonly number[],
    drain: AppConfig['drain'],
    upgrade: object,
  ) {
    this.hosting = hosting
    this.#ports = ports
    const [web, secure] = ports
    this.#config = {
      hosting,
      drain: { ...drain, tlsTimeout: FOR_EVER_MS },
      upgrade: { ...upgrade },
      endWithin: ORDERED_MS,
      options: { systemd: 'auto' },
      listeners: [
        { name: 'web', spec: `tcp://127.0.0.1:${web}` },
        { name: 'secure', spec: `tcp://127.0.0.1:${secure}`, server: 'https' },
      ],
    }
    this.scene = Scene.open(this.#config)
    this.manager = NotifyRecorder.open(this.scene.folder)
    Object.assign(this.#config, makeCertificate(this.scene))
  }

  static async open(hosting: Hosting, drainMs: number, upgrade: object): Promise<World> {
    const ports = [await freePort(), await freePort()]
    const world = new World(hosting, ports, { timeout: drainMs }, upgrade)
    if (hosting === 'daemon') world.daemon = await startDaemon(world.scene, { upgrade: { ...upgrade } })
    return world
  }

  start(config: AppConfig = {}): Promise<App> {
    return this.scene.start({ ...this.#config, ...config }, { env: { ...this.manager.env } })
  }

  async serve(config: AppConfig = {}): Promise<App> {
    return await (await this.start(config)).serving()
  }

  /** Two requests that are not answered for a minute, one over TLS, in the process that serves. */
  async occupy(): Promise<void> {
    const [web, secure] = this.#ports
    const path = `/stream?lines=${FOR_EVER_MS / 100}`
    ask(`http://127.0.0.1:${web}${path}`)
    https
      .get({ host: '127.0.0.1', port: secure, path, rejectUnauthorized: false, agent: false })
      .on('error', () => {})
    await until('both requests are under way', async () => {
      const status = (await Promise.all(this.scene.apps.map(app => app.status().catch(() => null)))) as never
      return (status as ({ listeners: { connections: number }[] } | null)[]).some(
        report => report?.listeners.every(({ connections }) => connections > 0) ?? false,
      )
    })
  }
}

async function inPhase(app: App, phase: string): Promise<App> {
  await until(`${app.name} is ${phase}`, async () => (await app.order('phase')) === phase)
  return app
}

interface Phase {
  readonly upgrade?: object
  readonly only?: Hosting
  /** Serves operators. */
  readonly serves?: true
  /** Returns the process that gets the order. */
  reach(world: World): Promise<App>
}

const PHASES: Readonly<Record<string, Phase>> = {
  joining: {
    reach: async world => {
      await world.serve()
      const joiner = await world.start({ readyDelay: FOR_EVER_MS })
      await joiner.says('takes orders')
      return joiner
    },
  },
  ready: {
    upgrade: SLOW,
    reach: async world => {
      const incumbent = await world.serve()
      const readyFile = world.scene.file('ready')
      const joiner = await world.start({ readyFile })
      await joiner.says('listener')
      incumbent.signal('SIGSTOP')
      writeFileSync(readyFile, '')
      return await inPhase(joiner, 'ready')
    },
  },
  frozen: {
    upgrade: SLOW,
    reach: async world => {
      const incumbent = await world.serve()
      await world.occupy()
      await world.start({ traps: { 'member ready': 'SIGSTOP' } })
      return await inPhase(incumbent, 'frozen')
    },
  },
  serving: {
    serves: true,
    reach: async world => {
      const only = await world.serve()
      await world.occupy()
      return only
    },
  },
  probation: {
    serves: true,
    reach: async world => {
      const elder = await world.serve()
      const successor = await world.serve()
      await inPhase(elder, 'standby')
      await world.occupy()
      return successor
    },
  },
  standby: {
    reach: async world => {
      const elder = await world.serve()
      await world.occupy()
      await world.serve()
      return await inPhase(elder, 'standby')
    },
  },
  leaving: {
    upgrade: { ...QUICK, probation: 0 },
    reach: async world => {
      const elder = await world.serve()
      await world.occupy()
      await world.serve()
      return await inPhase(elder, 'leaving')
    },
  },
  unfit: {
    serves: true,
    reach: async world => {
      const elder = await world.serve({ schema: { version: 1 } })
      await world.occupy()
      const successor = await world.serve({ schema: { version: 2, minReader: 2 } })
      await inPhase(elder, 'standby')
      await successor.order('put', { key: 'new', value: { item: 'x' } })
      await successor.kill()
      return await inPhase(elder, 'unfit')
    },
  },
  orphan: {
    only: 'daemon',
    reach: async world => {
      const elder = await world.serve()
      await world.occupy()
      await world.serve()
      await inPhase(elder, 'standby')
      await world.daemon!.kill()
      return await inPhase(elder, 'orphan')
    },
  },
}

interface Order {
  readonly drainMs: number
  readonly needsServing?: true
  /** The longest time that was ordered, if that is not {@link ORDERED_MS}. */
  readonly longestMs?: number
  give(app: App, world: World): Promise<void>
}

function close(app: App, facts: object): void {
  // The answer may not come: the process ends.
  app.order('close', facts).catch(() => {})
}

const ORDERS: Readonly<Record<string, Order>> = {
  'close({ timeout })': {
    drainMs: FOR_EVER_MS,
    give: async app => close(app, { timeout: ORDERED_MS }),
  },
  'close()': { drainMs: ORDERED_MS, give: async app => close(app, {}) },
  TERM: { drainMs: FOR_EVER_MS, give: async app => app.signal('SIGTERM') },
  'close({ timeout, handBack: false })': {
    drainMs: FOR_EVER_MS,
    give: async app => close(app, { timeout: ORDERED_MS, handBack: false }),
  },
  'a second close with a shorter timeout': {
    drainMs: FOR_EVER_MS,
    longestMs: FOR_EVER_MS,
    give: async app => {
      close(app, { timeout: FOR_EVER_MS })
      // Orders over the private socket come one after the other: the first has come when this one is answered.
      await app.order('phase').catch(() => {})
      close(app, { timeout: ORDERED_MS })
    },
  },
  stop: {
    drainMs: FOR_EVER_MS,
    needsServing: true,
    give: async (_app, { scene, hosting }) => {
      using client = await OperatorClient.connect(scene.control)
      const body = stopBody({ timeoutMs: ORDERED_MS, drop: false })
      await client.command(STOP, body, hosting === 'daemon' ? { service: 'shop' } : {})
    },
  },
}

interface Cell {
  readonly hosting: Hosting
  readonly phase: string
  readonly order: string
}

/** In the gate each order, and each phase in which an order was ignored once. */
const GATE: readonly Cell[] = [
  { hosting: 'embedded', phase: 'standby', order: 'close({ timeout })' },
  { hosting: 'embedded', phase: 'leaving', order: 'TERM' },
  { hosting: 'embedded', phase: 'leaving', order: 'a second close with a shorter timeout' },
  { hosting: 'embedded', phase: 'probation', order: 'stop' },
  { hosting: 'daemon', phase: 'leaving', order: 'close()' },
  { hosting: 'daemon', phase: 'standby', order: 'close({ timeout, handBack: false })' },
]

function* everyCell(): Generator<Cell> {
  for (const hosting of ['embedded', 'daemon'] as const)
    for (const [phase, { only = hosting, serves }] of Object.entries(PHASES))
      for (const [order, { needsServing }] of Object.entries(ORDERS))
        if (only === hosting && (serves || !needsServing)) yield { hosting, phase, order }
}

describe('an order to end', () => {
  it.each(perLane(GATE, [...everyCell()]))(
    'takes effect within a second: $hosting, $phase, $order',
    async ({ hosting, phase, order }) => {
      const { upgrade = QUICK, reach } = PHASES[phase]!
      const { drainMs, give, longestMs = ORDERED_MS } = ORDERS[order]!
      const world = await World.open(hosting, drainMs, upgrade)
      const app = await reach(world)
      const told = world.manager.notes.length
      const orderedAt = performance.timeOrigin + performance.now()
      await give(app, world)
      const { at } = await app.says('retired', ORDERED_MS + 5_000)
      expect(at - orderedAt).toBeLessThan(ORDERED_MS + 1_000)
      const extended = world.manager.notes.slice(told).map(note => note.EXTEND_TIMEOUT_USEC ?? '0')
      expect(Math.max(0, ...extended.map(Number))).toBeLessThanOrEqual(longestMs * 1_000)
    },
  )
})
