import { readdirSync, renameSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { dirname } from 'node:path'
import { OperatorClient } from '../../src/operator/client.js'
import type { ServiceStatus } from '../../src/operator/status-report.js'
import * as operators from '../orders/operators.js'
import { ask } from './client.js'
import {
  type Census,
  differences,
  isListened,
  leftIn,
  memoryFilesOf,
  plainCensus,
} from './descriptor-census.js'
import { DrawnReleases, type Release } from './drawn-releases.js'
import { Edge } from './edge.js'
import { OrderLedger } from './given-orders.js'
import { hasEnded, signalPid } from './launch.js'
import { handles } from './marked.js'
import { isAnswered, OpenLoop } from './open-loop.js'
import { randomFrom } from './random.js'
import { ServerChanges } from './server-changes.js'
import { pause, until } from './until.js'

const EVERY_MS = 12
const PAUSE_MS = 120
const PHASE_MS = 700
const CALM_MS = 25_000
/** An upgrade is over, or has failed, within this time. */
const UPGRADE_MS = 3_000
const LEFT_MS = 6_000
/** A service in which nothing happens has the same descriptors for this time. */
const SETTLED_MS = 100
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
const ORDERS = Object.entries(SHARES).flatMap(([order, share]) =>
  Array.from({ length: share }, () => order as ProxyOrder),
)
const WHEN = ['now', 'now', 'soon', 'soon', 'offering', 'offering', 'probation', 'leaving'] as const

const ENDS = ['stop', 'stop --drain', 'TERM', 'QUIT', 'INT', 'death'] as const
/** The process that has heard an order ends, or another one serves. */
const UNHEARD = {
  ERR_FDB_NO_HOLDER: ENDS,
  ERR_FDB_CHANNEL_CLOSED: [...ENDS, 'elder dies'],
  ERR_FDB_CHANNEL_RESET: [...ENDS, 'elder dies'],
  ERR_FDB_CLOSED: ENDS,
} as const
const FAILS = [
  ...ENDS,
  'gated',
  'sick',
  'bad file',
  'rollback',
  'joiner TERM',
  'joiner dies',
  'cancel',
] as const
const STARTS = {
  ERR_FDB_BUSY: [],
  ERR_FDB_ABORTED: FAILS,
  ERR_FDB_CONFIG: ['bad file'],
  ERR_FDB_SUCCESSOR_EXITED: FAILS,
  ERR_FDB_SUCCESSOR_LOST: FAILS,
  ERR_FDB_SUCCESSOR_DIED: FAILS,
  ERR_FDB_SUCCESSOR_LEFT: FAILS,
  ERR_FDB_UNHEALTHY: FAILS,
  ERR_FDB_CHECK: FAILS,
  ERR_FDB_DEADLINE: FAILS,
  ERR_FDB_LOST: FAILS,
} as const
const ANSWERS: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  upgrade: { ...UNHEARD, ...STARTS },
  cancel: { ...UNHEARD, ...STARTS },
  start: { ...UNHEARD, ...STARTS, ERR_FDB_CLOSED: [...ENDS, 'joiner TERM'] },
  rollback: { ...UNHEARD, ERR_FDB_NO_STANDBY: [], ERR_FDB_BUSY: [], ERR_FDB_ABORTED: FAILS },
  reload: { ...UNHEARD, ERR_FDB_CONFIG: ['bad file'], ERR_FDB_BUSY: [] },
  servers: UNHEARD,
  status: UNHEARD,
  stop: UNHEARD,
  'stop --drain': UNHEARD,
}

/** Random orders to the reference proxy, and clients at a fixed rate whose requests must all be answered. */
export class ProxyOrders {
  readonly ledger = new OrderLedger()
  readonly #below: (n: number) => number
  readonly #upstreams: Server[] = []
  readonly #started = new Set<number>()
  #edge!: Edge
  #clients!: OpenLoop
  #store: Server | null = null
  #storePort = 0
  #settings: Record<string, unknown> = {}
  #releases!: DrawnReleases
  #ended: (() => void)[] = []
  /** The processes that served when the service or they were ordered to end. */
  readonly #leaving = new Set<number>()
  #changes!: ServerChanges
  #keepsState = false

  constructor(seed: number) {
    this.#below = randomFrom(seed)
  }

  /** The output of all processes. */
  output = ''

  get #log(): string {
    return this.#edge.sandbox.output
  }

  /** Resolves with what is wrong. */
  async run(count: number): Promise<string[]> {
    this.#edge = await Edge.prepare({})
    this.#releases = new DrawnReleases({
      ...{ file: this.#edge.file, ledger: this.ledger, below: this.#below, kinds: RELEASES },
      lastingMs: UPGRADE_MS + 1_000,
      textOf: (...release) => this.#textOf(...release),
    })
    try {
      await this.#perform(count)
    } catch (error) {
      this.ledger.wrong.push(String(error))
    } finally {
      this.#clients?.close()
      this.output = this.#edge.sandbox.output
      await this.#edge.sandbox.close()
      for (const server of [...this.#upstreams, this.#store]) {
        server?.close()
        server?.closeAllConnections()
      }
    }
    return this.ledger.wrong
  }

  async #perform(count: number): Promise<void> {
    const [one, two] = [await this.#upstream(), await this.#upstream()]
    this.#changes = new ServerChanges(this.ledger, this.#control, one)
    this.#keepsState = this.#below(2) === 0
    this.#settings = {
      upstreams: { app: { servers: [one, two], keepAlive: { idle: `${KEPT_MS}ms` } } },
      drain: { timeout: '3s', move: this.#draw(['auto', 'auto', 'idle', 'off']), firstWave: '50ms' },
      probation: this.#draw(['0s', '500ms', '2s']),
      ...(this.#keepsState && { stateFile: this.#edge.sandbox.file('state') }),
    }
    if (this.#below(2) === 0) {
      await this.#openStore()
      this.#settings.source = `http://127.0.0.1:${this.#storePort}/`
    }
    this.ledger.note(JSON.stringify({ ...this.#settings, upstreams: undefined }))
    this.#releases.write('good')
    await this.#start()
    // A first process lacks what a second one has from the handoff.
    await operators.upgrade(this.#control)
    await isAnswered(this.#edge.port)
    const fresh = await this.#settled()
    this.#clients = new OpenLoop(this.#edge.port, EVERY_MS, n =>
      n % 12 === 0 ? `/?ms=${100 + ((n * 37) % 700)}` : '/',
    )
    for (let n = 0; n < count; n++) {
      await this.#reach(this.#draw(WHEN))
      const order = this.#draw(ORDERS)
      await this.#give(order)
      // Two at once: the same one, or another one.
      const more = this.#below(6)
      if (more === 0) await this.#give(order)
      if (more === 1) await this.#give(this.#draw(ORDERS))
      this.#releases.openGates()
      await this.#maintain(this.#below(3) > 0)
    }
    await this.#calm()
    await this.#judge(fresh)
  }

  #draw<T>(list: readonly T[]): T {
    return list[this.#below(list.length)]!
  }

  get #control(): string {
    return this.#edge.sandbox.control
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
    const sick = this.#edge.sandbox.file('sick')
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
    return this.#draw(['{', '{"listeners":7}', JSON.stringify({ ...config, colour: 'red' })])
  }

  async #launch(): Promise<number> {
    const pid = await this.#edge.launch()
    this.#started.add(pid)
    return pid
  }

  async #status(): Promise<ServiceStatus | null> {
    return (await operators.status(this.#control)) as ServiceStatus | null
  }

  /** All processes of the proxy that live. */
  get #living(): number[] {
    for (const { pid } of this.#edge.lines) if (typeof pid === 'number') this.#started.add(pid)
    return [...this.#started].filter(pid => !hasEnded(pid))
  }

  async #start(): Promise<void> {
    let pid = await this.#launch()
    await until(
      'the proxy serves',
      async () => {
        if ((await this.#status())?.role === 'serving') return true
        if (this.#living.length === 0) pid = await this.#launch()
        return false
      },
      CALM_MS,
      () => this.#log,
    )
    await isAnswered(this.#edge.port)
    this.#servesAgain()
    this.ledger.note(`${pid} serves`)
  }

  /** Waits for a phase, if it comes soon. */
  async #reach(when: (typeof WHEN)[number]): Promise<void> {
    if (when === 'now') return
    if (when === 'soon') return pause(this.#below(PAUSE_MS))
    const is = async () => {
      const status = await this.#status()
      if (status === null) return true
      const draining = status.draining ?? []
      if (when === 'probation') return draining.some(({ phase }) => phase === 'standby')
      if (when === 'leaving') return draining.some(({ phase }) => phase !== 'standby')
      return status.phase !== 'idle'
    }
    await this.ledger.reach(when, is, PHASE_MS)
  }

  async #give(order: ProxyOrder): Promise<void> {
    const { ledger } = this
    const status = await this.#status()
    const serving = status?.pid ?? 0
    const others = this.#living.filter(pid => pid !== serving)
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
        this.#releases.draw()
        ledger.give(order, () => operators.upgrade(this.#control))
        return
      case 'cancel':
        this.#releases.draw()
        ledger.give(order, () => this.#cancelled())
        return
      case 'start':
        this.#releases.draw()
        ledger.give(order, () => this.#startNext())
        return
      case 'rollback':
        setTimeout(ledger.begin('rollback'), 2_000).unref()
        ledger.give(order, () => operators.rollback(this.#control))
        return
      case 'reload':
        this.#releases.draw()
        ledger.give(order, () => operators.reload(this.#control))
        return
      case 'USR2':
      case 'HUP':
        this.#releases.draw()
        signal(`SIG${order}`)
        return
      case 'WINCH':
        signal('SIGWINCH')
        setTimeout(
          () => void this.#status().then(now => now && signal('SIGHUP', now.pid ?? 0)),
          this.#below(800),
        ).unref()
        return
      case 'status':
        ledger.give(order, () => operators.askStatus(this.#control))
        return
      case 'servers':
        this.#changes.draw(this.#below)
        return
      case 'store':
        await this.#toggleStore()
        return
      case 'sick': {
        const file = this.#edge.sandbox.file('sick')
        const over = ledger.begin('sick')
        ledger.note('each version is sick')
        writeFileSync(file, '')
        setTimeout(() => renameSync(file, `${file}-over`), 1_200)
        setTimeout(over, 1_200 + UPGRADE_MS).unref()
        return
      }
      case 'stop':
      case 'stop --drain':
        this.#stop(order, serving)
        return
      case 'death':
        if (serving === 0) return
        this.#ends(order, serving)
        signal('SIGKILL')
        return
      case 'TERM':
      case 'QUIT':
      case 'INT':
        if (serving === 0) return
        this.#ends(order, serving)
        signal(`SIG${order}`)
        return
      default: {
        const [which = '', what = ''] = order.split(' ')
        const pid = which === 'joiner' ? joiner : elder
        if (pid === undefined || serving === 0) return
        setTimeout(ledger.begin(order === 'elder QUIT' ? 'elder TERM' : order), UPGRADE_MS).unref()
        ledger.note(order)
        signal(what === 'dies' ? 'SIGKILL' : `SIG${what as 'TERM' | 'QUIT'}`, pid)
      }
    }
  }

  /** The service may end, until it serves again. */
  #ends(why: string, leaving: number): () => void {
    this.#leaving.add(leaving)
    const over = this.ledger.begin(why)
    this.#ended.push(over)
    if (!this.#keepsState || why === 'death') this.#changes.lose()
    return over
  }

  #stop(order: 'stop' | 'stop --drain', serving: number): void {
    const over = this.#ends(order, serving)
    this.ledger.give(order, () =>
      operators.stop(this.#control, order === 'stop' ? null : 700).catch(error => {
        // No process has heard it.
        if (error.code === 'ERR_FDB_NO_HOLDER') this.#ended = this.#ended.filter(each => each !== over)
        throw error
      }),
    )
  }

  /** The service serves again. */
  #servesAgain(): void {
    for (const over of this.#ended.splice(0)) over()
    this.#leaving.clear()
  }

  async #cancelled(): Promise<void> {
    const over = this.ledger.begin('cancel')
    const cancel = new AbortController()
    setTimeout(() => cancel.abort(), this.#below(400)).unref()
    using client = await OperatorClient.connect(this.#control)
    await client
      .upgrade({ timeout: operators.ANSWER_MS, signal: cancel.signal })
      .finally(() => setTimeout(over, 1_000).unref())
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

  /** A service manager starts the proxy again if no process lives. `waits`: also if the last one is just ending. */
  async #maintain(waits: boolean): Promise<void> {
    if (waits && this.#ended.length > 0)
      await until('all processes end', () => this.#living.length === 0, PHASE_MS).catch(() => {})
    if (this.#living.length > 0) {
      if (this.#ended.length === 0) return
      const { pid, role, phase } = (await this.#status()) ?? {}
      // Another version serves.
      if (role === 'serving' && phase === 'idle' && !this.#leaving.has(pid ?? 0)) this.#servesAgain()
      return
    }
    if (this.#ended.length === 0) {
      this.#ends('ended', 0)
      this.ledger.wrong.push('the service has ended without an order')
    }
    this.#releases.write('good')
    if (this.#storePort > 0 && this.#store === null) await this.#toggleStore()
    await this.#start()
  }

  /** All trouble is over: one version is left, and serves. */
  async #calm(): Promise<void> {
    this.ledger.note('calm')
    if (this.#storePort > 0 && this.#store === null) await this.#toggleStore()
    this.#releases.write('good')
    await until(
      'each order has its answer, and one version is left',
      async () => {
        this.#releases.openGates(true)
        await this.#maintain(false)
        const { pid, phase, draining = [] } = (await this.#status()) ?? {}
        return (
          this.ledger.areAnswered &&
          this.#ended.length === 0 &&
          phase === 'idle' &&
          draining.length === 0 &&
          this.#living.join() === `${pid}`
        )
      },
      CALM_MS,
      async () => `${this.#living} ${JSON.stringify(await this.#status())}`,
    )
    const pid = await until('the status comes', async () => (await this.#status())?.pid)
    signalPid(pid, 'SIGHUP')
    await isAnswered(this.#edge.port)
  }

  async #judge(fresh: Census): Promise<void> {
    const { ledger } = this
    const before = (await this.#status())?.pid
    const last = ledger.give('upgrade', () => operators.upgrade(this.#control))
    await until('the last upgrade has its answer', () => last.answer, CALM_MS)
    if (last.answer !== 'done') ledger.wrong.push(`the last upgrade: ${last.answer} ${last.message}`)
    await this.#clients.stop()
    // A process with a client has more descriptors.
    await isAnswered(this.#edge.port)
    ledger.note(`${this.#clients.answers} answers`)
    let differing: string[] = []
    const isFresh = async () => {
      // A connection to the store is kept for a while.
      differing = differences(fresh, await this.#census()).filter(
        text =>
          this.#storePort === 0 ||
          !/ socket, /.test(text) ||
          Number.parseInt(text, 10) > fresh.get('socket')!,
      )
      return differing.length === 0
    }
    await until('nothing is left', isFresh, LEFT_MS, () => differing).catch(error =>
      ledger.wrong.push(`after all: ${error.message}`),
    )
    await this.#judgeStatus(before ?? 0)
    if (/^Node\.js v\d|ERR_FDB_INTERNAL/m.test(this.#log)) ledger.wrong.push('an exception ended a process')
    ledger.judgeOrders(what => ANSWERS[what] ?? {})
    ledger.judgeClients(this.#clients.unanswered, {
      refused: [...ENDS, 'ended'],
      cut: ['death', 'INT', 'stop --drain', 'TERM', 'elder TERM', 'elder dies', 'ended'],
      silent: [],
      wrong: [],
    })
    await this.#judgeEnd()
  }

  async #judgeStatus(before: number): Promise<void> {
    const { wrong } = this.ledger
    const status = await this.#status()
    const { 'x-pid': pid, body } = await this.#ask('release.example')
    const says = { pid: status?.pid, role: status?.role, phase: status?.phase }
    const is = { pid: Number(pid), role: 'serving', phase: 'idle' }
    if (JSON.stringify(says) !== JSON.stringify(is))
      wrong.push(`the status says ${JSON.stringify(says)}, and there is ${JSON.stringify(is)}`)
    if (Number(pid) === before) wrong.push(`process ${pid} was not replaced by the last upgrade`)
    if (body !== `${this.#releases.good}`)
      wrong.push(`release ${body} answers, and the file has ${this.#releases.good}`)
    if (this.#storePort > 0 && (await this.#ask('store.example')).body !== 'stored')
      wrong.push('the route of the store is missing')
    wrong.push(...(await this.#changes.wrong()))
  }

  async #ask(host: string): Promise<{ 'x-pid': string; body: string }> {
    const { headers, body } = await ask(this.#edge.url, { headers: { host } }).answer
    return { 'x-pid': String(headers['x-pid']), body }
  }

  async #judgeEnd(): Promise<void> {
    const { wrong } = this.ledger
    await operators.stop(this.#control)
    await until('all processes end', () => this.#edge.sandbox.processes().length === 0).catch(() =>
      wrong.push(`after the end: ${this.#edge.sandbox.processes().join('\n')}`),
    )
    if (isListened(this.#edge.port)) wrong.push('after the end: the port is listened on')
    const kept = this.ledger.had(['death', 'elder dies', 'joiner dies'], 0, performance.now())
      ? /^upgrade\.sock\.(?:lock|events|members|[0-9a-f]{16}(?:\.stderr|\.step)?)$/
      : /^upgrade\.sock\.(?:lock|events|members)$/
    const files = readdirSync(dirname(this.#control)).filter(
      name => name.startsWith('upgrade.sock') && !kept.test(name),
    )
    if (files.length > 0) wrong.push(`after the end: ${files}`)
  }

  /** The census of a service in which nothing happens. Connections to servers are kept for a while. */
  async #settled(): Promise<Census> {
    await pause(2 * KEPT_MS)
    let last = await this.#census()
    return await until('nothing changes', async () => {
      const before = last
      await pause(SETTLED_MS)
      last = await this.#census()
      return differences(before, last).length === 0 ? last : null
    })
  }

  /** Descriptors of the process that serves, and the processes, when its probation is over. */
  async #census(): Promise<Census> {
    const status = await until(
      'one process is left',
      async () => {
        const status = await this.#status()
        return status?.phase === 'idle' && status.draining?.length === 0 ? status : null
      },
      CALM_MS,
      async () => JSON.stringify(await this.#status()),
    )
    const { pid } = status
    const census = plainCensus(pid!)
    // The files of the state have numbers.
    for (const kind of [...memoryFilesOf(pid!).keys(), `${this.#control}.members`]) census.delete(kind)
    for (const left of leftIn(pid!)) census.set(left, 1)
    for (const line of this.#edge.sandbox.processes()) {
      const kind = `process ${line.replace(/\d+/g, 'N').slice(0, 120)}`
      census.set(kind, (census.get(kind) ?? 0) + 1)
    }
    return census
  }
}
