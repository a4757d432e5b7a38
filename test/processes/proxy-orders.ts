import { existsSync, readdirSync, renameSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { dirname } from 'node:path'
import type { ServiceStatus } from '../../src/operator/status-report.js'
import { perLane } from '../lanes/lane.js'
import * as operators from '../orders/operators.js'
import { ask } from './client.js'
import { type Census, leftIn, memoryFilesOf, plainCensus } from './descriptor-census.js'
import { CALM_MS, EFFECT_MS, inShares } from './drawn-orders.js'
import { DrawnReleases, type Release } from './drawn-releases.js'
import { Edge } from './edge.js'
import { hasEnded, signalPid } from './launch.js'
import { handles } from './marked.js'
import { MemberOrders, PHASE_MS } from './member-orders.js'
import { isAnswered, OpenLoop } from './open-loop.js'
import { ServerChanges } from './server-changes.js'
import { until } from './until.js'

const EVERY_MS = 12
/** An upgrade is over, or has failed, within this time. */
const UPGRADE_MS = 3_000
/** Idle connections to servers are kept for this time. */
const KEPT_MS = 300

/** The releases that the file names, and the share of each. */
const RELEASES: readonly Release[] = ['good', 'good', 'good', 'gated', 'gated', 'gated', 'sick', 'bad file']

const SHARES = {
  ...{ upgrade: 5, start: 2, USR2: 1, rollback: 3, reload: 1, HUP: 1, WINCH: 1, status: 1 },
  ...{ servers: 4, store: 1, sick: 1 },
  ...{ stop: 1, 'stop --drain': 1, TERM: 1, QUIT: 1, INT: 1, death: 1 },
  ...{ 'joiner TERM': 1, 'joiner dies': 1, 'elder TERM': 1, 'elder QUIT': 1, 'elder dies': 1, cancel: 1 },
} as const
type ProxyOrder = keyof typeof SHARES
const ORDERS = inShares(SHARES)
const ALONE: readonly ProxyOrder[] = ['TERM', 'INT', 'QUIT', 'rollback', 'USR2', 'HUP', 'WINCH', 'death']
const WHEN = [
  'calm',
  'calm',
  'calm',
  'now',
  'now',
  'soon',
  'soon',
  'offering',
  'offering',
  'probation',
  'leaving',
] as const

const ENDS = ['stop', 'stop --drain', 'TERM', 'QUIT', 'INT', 'death'] as const
/** The process that has heard an order ends, or another one serves. */
const UNHEARD = {
  ERR_FDB_NO_HOLDER: ENDS,
  ERR_FDB_CHANNEL_CLOSED: [...ENDS, 'elder dies'],
  ERR_FDB_CHANNEL_RESET: [...ENDS, 'elder dies'],
  ERR_FDB_CLOSED: ENDS,
} as const
const UNREADY = ['gated', 'sick'] as const
const JOINER_ENDS = ['joiner TERM', 'joiner dies'] as const
const STARTS = {
  ERR_FDB_BUSY: [],
  ERR_FDB_ABORTED: [...ENDS, 'rollback', 'cancel', 'joiner TERM'],
  ERR_FDB_CONFIG: ['bad file'],
  ERR_FDB_SUCCESSOR_EXITED: [...ENDS, ...JOINER_ENDS, ...UNREADY, 'bad file'],
  ERR_FDB_SUCCESSOR_LOST: [...ENDS, ...JOINER_ENDS, ...UNREADY],
  ERR_FDB_SUCCESSOR_DIED: [...ENDS, ...JOINER_ENDS],
  ERR_FDB_SUCCESSOR_LEFT: [...ENDS, ...JOINER_ENDS, 'rollback'],
  ERR_FDB_UNHEALTHY: UNREADY,
  ERR_FDB_CHECK: UNREADY,
  ERR_FDB_DEADLINE: UNREADY,
  ERR_FDB_LOST: [...ENDS, ...JOINER_ENDS],
} as const
const ANSWERS: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  upgrade: { ...UNHEARD, ...STARTS },
  cancel: { ...UNHEARD, ...STARTS },
  start: { ...UNHEARD, ...STARTS, ERR_FDB_CLOSED: [...ENDS, 'joiner TERM'] },
  rollback: {
    ...UNHEARD,
    ERR_FDB_NO_STANDBY: [],
    ERR_FDB_BUSY: [],
    ERR_FDB_ABORTED: [...ENDS, ...JOINER_ENDS, 'cancel'],
  },
  reload: { ...UNHEARD, ERR_FDB_CONFIG: ['bad file'], ERR_FDB_BUSY: [] },
  servers: UNHEARD,
  status: UNHEARD,
  stop: UNHEARD,
  'stop --drain': UNHEARD,
}

/** Random orders to the reference proxy, and clients at a fixed rate whose requests must all be answered. */
export class ProxyOrders extends MemberOrders<ProxyOrder, (typeof WHEN)[number]> {
  readonly #upstreams: Server[] = []
  readonly #started = new Set<number>()
  #edge!: Edge
  #store: Server | null = null
  #storePort = 0
  #settings: Record<string, unknown> = {}
  protected releases!: DrawnReleases
  #changes!: ServerChanges
  #keepsState = false
  /** Whether WINCH was sent, and HUP is to follow. */
  #pauses = false

  protected get control(): string {
    return this.box.control
  }

  protected get port(): number {
    return this.#edge.port
  }

  protected get box(): Edge['sandbox'] {
    return this.#edge.sandbox
  }

  get #log(): string {
    return this.box.output
  }

  protected async prepare(): Promise<void> {
    this.#edge = await Edge.prepare({})
    this.releases = new DrawnReleases({
      ...{ file: this.#edge.file, ledger: this.ledger, below: this.below, kinds: RELEASES },
      lastingMs: UPGRADE_MS + 1_000,
      textOf: (...release) => this.#textOf(...release),
    })
  }

  protected override async close(): Promise<void> {
    for (const server of [...this.#upstreams, this.#store]) {
      server?.close()
      server?.closeAllConnections()
    }
  }

  protected async perform(count: number): Promise<void> {
    const [one, two] = [await this.#upstream(), await this.#upstream()]
    this.#changes = new ServerChanges(this.ledger, this.control, one)
    this.#keepsState = this.below(2) === 0
    this.#settings = {
      upstreams: { app: { servers: [one, two], keepAlive: { idle: `${KEPT_MS}ms` } } },
      drain: { timeout: '3s', move: this.draw(['auto', 'auto', 'idle', 'off']), firstWave: '50ms' },
      probation: this.draw(['0s', '500ms', '2s']),
      ...(this.#keepsState && { stateFile: this.box.file('state') }),
    }
    if (this.below(2) === 0) {
      await this.#openStore()
      this.#settings.source = `http://127.0.0.1:${this.#storePort}/`
    }
    this.ledger.note(JSON.stringify({ ...this.#settings, upstreams: undefined }))
    this.releases.write('good')
    await this.#start()
    // A first process lacks what a second one has from the handoff.
    await operators.upgrade(this.control)
    await isAnswered(this.port)
    const fresh = await this.settled(KEPT_MS)
    this.clients = new OpenLoop(this.port, EVERY_MS, n =>
      n % 12 === 0 ? `/?ms=${100 + ((n * 37) % 700)}` : '/',
    )
    await this.giveOrders(count, ORDERS, WHEN)
    await this.giveAlone(perLane(1, 5), ALONE, 'calm')
    await this.#calm()
    await this.#judge(fresh)
  }

  async #upstream(): Promise<string> {
    const server = createServer((request, response) => {
      const { searchParams } = new URL(request.url ?? '/', 'http://x')
      setTimeout(() => response.end('answer\n'), Number(searchParams.get('ms') ?? 0))
    })
    this.#upstreams.push(server)
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  async #openStore(): Promise<void> {
    const routes = { 'routes/store.example/': { respond: { body: 'stored' } } }
    const store = createServer((_, response) => response.end(JSON.stringify(routes)))
    await new Promise<void>(resolve => store.listen(this.#storePort, '127.0.0.1', resolve))
    this.#storePort = (store.address() as AddressInfo).port
    this.#store = store
  }

  #textOf(release: Release, id: number, gate: string): string {
    const sick = this.box.file('sick')
    const command = { sick: 'false', gated: `[ -e ${gate} ] && [ ! -e ${sick} ]` }[release as string]
    const { probation, ...settings } = this.#settings
    const config = {
      ...this.#edge.config,
      ...settings,
      routes: [
        { host: 'release.example', respond: { body: `${id}` } },
        { host: '*', upstream: 'app' },
      ],
      upgrade: {
        ...{ probation, heartbeat: '50ms', silence: '800ms', ready: `${UPGRADE_MS}ms`, timeout: '6s' },
        health: {
          command: command ?? `[ ! -e ${sick} ]`,
          ...{ passes: 1, interval: '100ms', timeout: '300ms', within: '1500ms' },
        },
      },
    }
    if (release !== 'bad file') return JSON.stringify(config)
    return this.draw(['{', '{"listeners":7}', JSON.stringify({ ...config, colour: 'red' })])
  }

  async #launch(): Promise<number> {
    const pid = await this.#edge.launch()
    this.#started.add(pid)
    return pid
  }

  /** All processes of the proxy that live. */
  protected get living(): number[] {
    for (const { pid } of this.#edge.lines) if (typeof pid === 'number') this.#started.add(pid)
    return [...this.#started].filter(pid => !hasEnded(pid))
  }

  protected async startAgain(): Promise<void> {
    if (this.#storePort > 0 && this.#store === null) await this.#toggleStore()
    await this.#start()
  }

  async #start(): Promise<void> {
    let pid = await this.#launch()
    await until(
      'the proxy serves',
      async () => {
        if ((await this.status())?.role === 'serving') return true
        if (this.living.length === 0) pid = await this.#launch()
        return false
      },
      CALM_MS,
      () => this.#log,
    )
    await isAnswered(this.port)
    this.servesAgain()
    this.ledger.note(`${pid} serves`)
  }

  protected async reach(when: (typeof WHEN)[number]): Promise<void> {
    if (when === 'now') return
    if (when === 'soon') return this.soon()
    if (when === 'calm') {
      this.releases.write('good')
      this.releases.openGates(true)
    }
    const is = async () => {
      const status = await this.status()
      if (when === 'calm') return this.ledger.isCalm && status?.role === 'serving' && status.phase === 'idle'
      if (status === null) return true
      const draining = status.draining ?? []
      if (when === 'probation') return draining.some(({ phase }) => phase === 'standby')
      if (when === 'leaving') return draining.some(({ phase }) => phase !== 'standby')
      return status.phase !== 'idle'
    }
    await this.ledger.reach(when, is, when === 'calm' ? 2 * EFFECT_MS : PHASE_MS)
  }

  protected async give(order: ProxyOrder): Promise<void> {
    const { ledger } = this
    const status = await this.status()
    const serving = status?.pid ?? 0
    const others = this.living.filter(pid => pid !== serving)
    const older = new Set((status?.draining ?? []).map(({ pid }) => pid ?? 0))
    const signal = (name: NodeJS.Signals, pid = serving) => {
      ledger.note(`${name} to ${pid || 'no process'}`)
      // Before Node has loaded the command, each signal ends it.
      if (pid > 0 && (name === 'SIGKILL' || handles(pid, 'SIGUSR2'))) signalPid(pid, name)
    }
    const joiner = others.find(pid => !older.has(pid))
    const elder = [...older].find(pid => others.includes(pid))
    switch (order) {
      case 'upgrade':
        this.releases.draw()
        ledger.give(order, () => operators.upgrade(this.control))
        return
      case 'cancel':
        this.releases.draw()
        ledger.give(order, () => this.cancelled())
        return
      case 'start':
        this.releases.draw()
        ledger.give(order, () => this.#startNext())
        return
      case 'rollback':
        setTimeout(ledger.begin('rollback'), 2_000).unref()
        ledger.give(order, () => operators.rollback(this.control))
        return
      case 'reload':
        this.releases.draw()
        ledger.give(order, () => operators.reload(this.control))
        return
      case 'USR2':
      case 'HUP':
        this.releases.draw()
        signal(`SIG${order}`)
        return
      case 'WINCH':
        signal('SIGWINCH')
        this.#pauses = true
        setTimeout(() => {
          this.#pauses = false
          void this.status().then(now => now && signal('SIGHUP', now.pid ?? 0))
        }, this.below(800)).unref()
        return
      case 'status':
        ledger.give(order, () => operators.askStatus(this.control))
        return
      case 'servers':
        this.#changes.draw(this.below)
        return
      case 'store':
        await this.#toggleStore()
        return
      case 'sick': {
        const file = this.box.file('sick')
        const over = ledger.begin('sick')
        ledger.note('each version is sick')
        writeFileSync(file, '')
        setTimeout(() => existsSync(file) && renameSync(file, `${file}-over`), 1_200)
        setTimeout(over, 1_200 + UPGRADE_MS).unref()
        return
      }
      case 'stop':
      case 'stop --drain':
        this.#mayEnd(order, serving)
        return
      case 'death':
        if (serving === 0) return
        this.#mayEnd(order, serving)
        this.kill('serving dies', serving, UPGRADE_MS)
        return
      case 'TERM':
      case 'QUIT':
      case 'INT':
        if (serving === 0) return
        this.#mayEnd(order, serving)
        signal(`SIG${order}`)
        return
      default: {
        const [which = '', what = ''] = order.split(' ')
        const pid = which === 'joiner' ? joiner : elder
        if (pid === undefined || serving === 0) return
        if (what === 'dies') return this.kill(order, pid, UPGRADE_MS)
        setTimeout(ledger.begin(order === 'elder QUIT' ? 'elder TERM' : order), UPGRADE_MS).unref()
        ledger.note(order)
        signal(`SIG${what as 'TERM' | 'QUIT'}`, pid)
      }
    }
  }

  /** The service may end, until it serves again, and lose changes with it. */
  #mayEnd(order: (typeof ENDS)[number], serving: number): void {
    if (!this.#keepsState || order === 'death') this.#changes.lose()
    if (order === 'stop' || order === 'stop --drain') this.stop(order, serving)
    else this.ends(order, serving)
  }

  /** A second process takes over. Rejects with the code that it logs if it ends before it serves. */
  async #startNext(): Promise<void> {
    const pid = await this.#launch()
    const lines = () => this.#edge.lines.filter(line => line.pid === pid)
    const serves = () => lines().some(({ msg }) => msg === 'the proxy serves')
    await until('it serves, or ends', () => serves() || hasEnded(pid), CALM_MS)
    if (serves()) return
    const { err } = lines().findLast(line => line.err !== undefined) ?? {}
    const isOrdered = this.ledger.had(
      ['joiner TERM', 'joiner dies'],
      performance.now() - UPGRADE_MS,
      performance.now(),
    )
    const [, plain = isOrdered ? 'ERR_FDB_ABORTED' : 'none'] = /^(ERR_FDB_\w+): .*\n?$/m.exec(this.#log) ?? []
    throw Object.assign(new Error(err?.message ?? 'it has ended'), { code: err?.code ?? plain })
  }

  /** Judges the process that serves, and its configuration. */
  protected async promised(order: ProxyOrder, before: ServiceStatus): Promise<void> {
    const { ledger } = this
    const { pid, draining = [] } = before
    const { current, good } = this.releases
    const standby = draining.find(({ phase }) => phase === 'standby')
    const serves = async (isIt: (now: number) => boolean, body?: number) => {
      const status = await this.status()
      if (!ledger.areAnswered || status?.role !== 'serving' || !isIt(status.pid ?? 0)) return false
      if (body === undefined) return true
      const answer = await this.#ask('release.example')
      return isIt(Number(answer['x-pid'])) && answer.body === `${body}`
    }
    const same = (now: number) => now === pid
    switch (order) {
      case 'upgrade':
      case 'start':
      case 'USR2':
        if (current === 'gated') return
        if (current === 'good')
          return ledger.promised('the next version serves', () => serves(now => !same(now), good), EFFECT_MS)
        // USR2 has no answer: its failure is in the status.
        return ledger.promised(
          'the version fails, and the one before serves on',
          async () => {
            const { lastFailure } = (await this.status()) ?? {}
            return JSON.stringify(lastFailure) !== JSON.stringify(before.lastFailure) && serves(same)
          },
          EFFECT_MS,
        )
      case 'HUP':
      case 'reload': {
        const served = (await this.#ask('release.example')).body
        const [body, answer] = current === 'bad file' ? [served, 'ERR_FDB_CONFIG'] : [`${good}`, 'done']
        const said = this.#refusals
        const has = async () => {
          if (order === 'reload' && ledger.orders.at(-1)?.answer !== answer) return false
          if (order === 'HUP' && current === 'bad file' && this.#refusals === said) return false
          return serves(same, Number(body))
        }
        return ledger.promised(`the configuration ${body} is in force`, has, EFFECT_MS)
      }
      case 'WINCH': {
        const accepts = async (is: boolean) =>
          (await this.status())?.listeners?.every(({ accepting }) => accepting === is) ?? false
        // HUP may follow before a look at the status.
        const paused = async () => !this.#pauses || accepts(false)
        await ledger.promised('the proxy does not accept', paused, EFFECT_MS)
        return ledger.promised('HUP lets it accept', () => accepts(true), EFFECT_MS)
      }
      case 'rollback': {
        if (standby !== undefined && (standby.standbySeconds ?? 0) < 1) return
        const answer = standby === undefined ? 'ERR_FDB_NO_STANDBY' : 'done'
        const has = async () =>
          ledger.orders.at(-1)?.answer === answer && serves(now => now === (standby?.pid ?? pid))
        return ledger.promised(`the rollback: ${answer}`, has, EFFECT_MS)
      }
      case 'TERM':
      case 'INT':
      case 'stop':
      case 'stop --drain':
        return ledger.promised('all processes end', async () => this.living.length === 0, EFFECT_MS)
      case 'QUIT':
      case 'death': {
        if (standby !== undefined && (standby.standbySeconds ?? 0) < 1) return
        const what = standby === undefined ? 'all processes end' : 'the previous version serves'
        const has = async () =>
          standby === undefined ? this.living.length === 0 : serves(now => now === standby.pid)
        return ledger.promised(what, has, EFFECT_MS)
      }
      case 'status':
      case 'servers':
      case 'elder TERM':
      case 'elder QUIT':
      case 'elder dies':
        return ledger.promised('the version serves on', () => serves(same), EFFECT_MS)
      default:
    }
  }

  /** How often a configuration was not applied. */
  get #refusals(): number {
    return this.#log.split('"msg":"the configuration was not').length
  }

  async #toggleStore(): Promise<void> {
    if (this.#storePort === 0) return
    const store = this.#store
    if (store === null) await this.#openStore()
    else {
      this.#store = null
      store.close()
      store.closeAllConnections()
    }
    this.ledger.note(store === null ? 'the store is back' : 'the store is away')
  }

  /** All trouble is over: one version is left, and serves. */
  async #calm(): Promise<void> {
    this.ledger.note('calm')
    if (this.#storePort > 0 && this.#store === null) await this.#toggleStore()
    this.releases.write('good')
    await until(
      'each order has its answer, and one version is left',
      async () => {
        this.releases.openGates(true)
        await this.maintain(false)
        const { pid, phase, draining = [] } = (await this.status()) ?? {}
        return (
          this.ledger.areAnswered &&
          this.ended.length === 0 &&
          phase === 'idle' &&
          draining.length === 0 &&
          this.living.join() === `${pid}`
        )
      },
      CALM_MS,
      async () => `${this.living} ${JSON.stringify(await this.status())}`,
    )
    const pid = await until('the status comes', async () => (await this.status())?.pid)
    signalPid(pid, 'SIGHUP')
    await isAnswered(this.port)
  }

  async #judge(fresh: Census): Promise<void> {
    const { ledger } = this
    const before = (await this.status())?.pid
    await this.judgeUpgrade()
    await this.clients!.stop()
    // A process with a client has more descriptors.
    await isAnswered(this.port)
    ledger.note(`${this.clients!.answers} answers`)
    // A connection to the store is kept for a while.
    await this.judgeLeft(
      fresh,
      text =>
        this.#storePort === 0 || !/ socket, /.test(text) || Number.parseInt(text, 10) > fresh.get('socket')!,
    )
    await this.#judgeStatus(before ?? 0)
    this.judgeLog()
    ledger.judgeOrders(what => ANSWERS[what] ?? {})
    ledger.judgeClients(this.clients!.unanswered, {
      refused: { since: [...ENDS, 'ended'] },
      // A proxy that gets TERM or QUIT answers the requests that it has.
      cut: { during: ['killed', 'INT', 'stop --drain'], since: [...ENDS, 'ended'] },
    })
    const kept = ledger.had(['death', 'elder dies', 'joiner dies'], 0, performance.now())
      ? /^upgrade\.sock\.(?:lock|events|members|[0-9a-f]{16}(?:\.stderr|\.step)?)$/
      : /^upgrade\.sock\.(?:lock|events|members)$/
    await this.judgeEnd(() =>
      readdirSync(dirname(this.control)).filter(name => name.startsWith('upgrade.sock') && !kept.test(name)),
    )
  }

  async #judgeStatus(before: number): Promise<void> {
    const { wrong } = this.ledger
    const status = await this.status()
    const { 'x-pid': pid, body } = await this.#ask('release.example')
    const says = { pid: status?.pid, role: status?.role, phase: status?.phase }
    const is = { pid: Number(pid), role: 'serving', phase: 'idle' }
    if (JSON.stringify(says) !== JSON.stringify(is))
      wrong.push(`the status says ${JSON.stringify(says)}, and there is ${JSON.stringify(is)}`)
    if (Number(pid) === before) wrong.push(`process ${pid} was not replaced by the last upgrade`)
    if (body !== `${this.releases.good}`)
      wrong.push(`release ${body} answers, and the file has ${this.releases.good}`)
    if (this.#storePort > 0 && (await this.#ask('store.example')).body !== 'stored')
      wrong.push('the route of the store is missing')
    wrong.push(...(await this.#changes.wrong()))
  }

  async #ask(host: string): Promise<{ 'x-pid': string; body: string }> {
    const { headers, body } = await ask(this.#edge.url, { headers: { host } }).answer
    return { 'x-pid': String(headers['x-pid']), body }
  }

  /** Descriptors of the process that serves, and the processes, when its probation is over. */
  protected async census(): Promise<Census> {
    const status = await until(
      'one process is left',
      async () => {
        const status = await this.status()
        return status?.phase === 'idle' && status.draining?.length === 0 ? status : null
      },
      CALM_MS,
      async () => JSON.stringify(await this.status()),
    )
    const { pid } = status
    const census = plainCensus(pid!)
    // The files of the state have numbers.
    for (const kind of [...memoryFilesOf(pid!).keys(), `${this.control}.members`]) census.delete(kind)
    for (const left of leftIn(pid!)) census.set(left, 1)
    for (const line of this.box.processes()) {
      const kind = `process ${line.replace(/\d+/g, 'N').slice(0, 120)}`
      census.set(kind, (census.get(kind) ?? 0) + 1)
    }
    return census
  }
}
