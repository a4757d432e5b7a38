import { readdirSync, readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { StatusReport } from '../../src/operator/status-report.js'
import { AutoProgram } from '../e2e/auto-program.js'
import { perLane } from '../lanes/lane.js'
import * as operators from '../orders/operators.js'
import { type Census, leftIn, memoryFilesOf, plainCensus } from './descriptor-census.js'
import { CALM_MS, EFFECT_MS, inShares } from './drawn-orders.js'
import { DrawnReleases, type Release } from './drawn-releases.js'
import { hasEnded, launchUnrelated, signalPid } from './launch.js'
import { MemberOrders, PHASE_MS } from './member-orders.js'
import { isAnswered, OpenLoop } from './open-loop.js'
import { freePort } from './scene.js'
import { pause, until } from './until.js'

const PROGRAM = readFileSync(fileURLToPath(new URL('../fixtures/unmodified.mjs', import.meta.url)), 'utf8')
/** A child of the program that listens, too: no version of the service. */
const HELPER = `import { createServer } from 'node:net'
process.once('message', () => createServer().listen(0, '127.0.0.1'))
process.on('disconnect', () => process.exit())
`
const EVERY_MS = 12
const READY_TIMEOUT_MS = 2_500
const DRAIN_MS = 3_000
/** Requests last at most this long. */
const SLOW_MS = 800
const ANNOUNCED_MS = 500
const STOP_MS = [30, 200, 900] as const

const RELEASES: readonly Release[] = ['good', 'good', 'good', 'good', 'gated', 'gated', 'sick', 'crashes']

const SHARES = {
  ...{ upgrade: 5, start: 4, rollback: 3, reload: 1, status: 1, cancel: 1, pause: 2 },
  ...{ stop: 1, 'stop --drain': 1, TERM: 2, INT: 1, 'Ctrl-C': 1 },
  ...{ 'TERM in a start': 1, QUIT: 1, HUP: 1, USR2: 1, death: 1 },
  ...{ 'joiner TERM': 1, 'joiner dies': 1, 'elder TERM': 1, 'elder HUP': 1, 'elder dies': 1 },
} as const
type AutoOrder = keyof typeof SHARES
const ORDERS = inShares(SHARES)
const ALONE: readonly AutoOrder[] = [
  ...(['TERM', 'INT', 'Ctrl-C', 'rollback', 'HUP', 'USR2', 'QUIT', 'elder TERM'] as const),
  ...(['TERM in a start', 'TERM in a start'] as const),
]
const WHEN = ['calm', 'calm', 'now', 'soon', 'soon', 'offering', 'offering', 'probation', 'leaving'] as const

/** Without a handler these end a Node process at once, as they do without fd-broker. */
const DEATHS = ['QUIT', 'HUP', 'USR2', 'death'] as const
const ENDS = ['stop', 'stop --drain', 'TERM', 'INT', 'Ctrl-C', ...DEATHS] as const
const JOINER_ENDS = ['joiner TERM', 'joiner dies', 'crashes', 'Ctrl-C'] as const
const UNHEARD = {
  ERR_FDB_NO_HOLDER: ENDS,
  ERR_FDB_CHANNEL_CLOSED: [...ENDS, 'elder dies', 'elder TERM', 'elder HUP'],
  ERR_FDB_CHANNEL_RESET: [...ENDS, 'elder dies', 'elder TERM', 'elder HUP'],
  ERR_FDB_CLOSED: ENDS,
} as const
/** Another version is joining, or stands by. */
const BUSY = ['upgrade', 'cancel', 'start', 'rollback', 'joins'] as const
const UPGRADES = {
  ERR_FDB_BUSY: BUSY,
  ERR_FDB_ABORTED: [...ENDS, 'cancel', 'rollback'],
  ERR_FDB_SUCCESSOR_EXITED: [...JOINER_ENDS, 'sick', 'gated', ...ENDS],
  ERR_FDB_SUCCESSOR_LOST: [...JOINER_ENDS, ...ENDS],
  ERR_FDB_SUCCESSOR_DIED: [...JOINER_ENDS, ...ENDS],
  ERR_FDB_SUCCESSOR_LEFT: [...JOINER_ENDS, 'rollback', ...ENDS],
  ERR_FDB_DEADLINE: ['sick', 'gated', 'pause'],
} as const
const ANSWERS: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  upgrade: { ...UNHEARD, ...UPGRADES },
  cancel: { ...UNHEARD, ...UPGRADES },
  start: {
    ...UPGRADES,
    ERR_FDB_SUCCESSOR_EXITED: [...JOINER_ENDS, 'sick', 'gated', 'rollback', 'cancel', ...BUSY, ...ENDS],
  },
  rollback: {
    ...UNHEARD,
    ERR_FDB_NO_STANDBY: [
      'no standby',
      'upgrade',
      'start',
      'cancel',
      'elder dies',
      'elder TERM',
      'elder HUP',
      ...ENDS,
    ],
    ERR_FDB_BUSY: BUSY,
    ERR_FDB_ABORTED: ENDS,
  },
  // The program has no configuration that fd-broker knows.
  reload: { ...UNHEARD, ERR_FDB_COMMAND_UNKNOWN: [] },
  status: UNHEARD,
  stop: UNHEARD,
  'stop --drain': UNHEARD,
}

/** In a probation the previous version serves again. */
const RETURNS: readonly AutoOrder[] = ['rollback', ...DEATHS]

type Wrapper = 'import' | 'options' | 'npm'

/** Random orders to an unmodified server under `fd-broker/auto`, and clients at a fixed rate whose requests must all be answered. */
export class AutoOrders extends MemberOrders<AutoOrder, (typeof WHEN)[number], StatusReport> {
  #program!: AutoProgram
  protected releases!: DrawnReleases
  #shape: Record<string, unknown> = {}
  #env: Record<string, string> = {}
  #probationMs = 0
  /** The last `TERM in a start` was sent. */
  #isTold = false
  /** The processes that a start has launched: the program, or its wrapper. */
  readonly #launched = new Set<number>()

  protected get control(): string {
    return this.#program.control
  }

  protected get port(): number {
    return this.#program.port
  }

  protected get box() {
    return this.#program.sandbox
  }

  protected async prepare(): Promise<void> {
    this.#program = await AutoProgram.of(PROGRAM)
    this.#program.write('helper.mjs', HELPER)
    this.#program.write(
      'package.json',
      JSON.stringify({ name: this.#program.name, scripts: { start: 'node server.mjs' } }),
    )
    const ports = [this.port, ...(this.below(3) === 0 ? [await freePort()] : [])]
    const health = this.below(3) === 0
    this.#shape = { ports, health, handles: this.below(2) === 0, forks: this.below(4) === 0 }
    this.#probationMs = this.draw([0, 500, 3_000])
    this.#env = {
      FD_BROKER_PROBATION: `${this.#probationMs}ms`,
      FD_BROKER_READY_TIMEOUT: `${READY_TIMEOUT_MS}ms`,
      FD_BROKER_DRAIN: `${DRAIN_MS}ms`,
      FD_BROKER_EXIT: '300ms',
      ...(health && { FD_BROKER_READY: '/health' }),
    }
    this.releases = new DrawnReleases({
      ...{ file: this.#program.path('release.json'), ledger: this.ledger, below: this.below },
      ...{ kinds: RELEASES, lastingMs: READY_TIMEOUT_MS + 1_000 },
      textOf: (release, id, gate) =>
        JSON.stringify({ ...this.#shape, id, release, ...(release === 'gated' && { gate }) }),
    })
  }

  protected async perform(count: number): Promise<void> {
    this.ledger.note(JSON.stringify({ ...this.#shape, probation: this.#probationMs }))
    this.releases.write('good')
    await this.#start()
    // A first process lacks what a second one has from the handoff.
    await operators.upgrade(this.control)
    await isAnswered(this.port)
    const fresh = await this.settled()
    this.clients = new OpenLoop(this.port, EVERY_MS, n =>
      n % 12 === 0 ? `/?ms=${100 + ((n * 37) % (SLOW_MS - 100))}` : '/',
    )
    await this.giveOrders(count, ORDERS, WHEN)
    await this.giveAlone(perLane(1, 5), ALONE, 'calm')
    await this.#calm()
    await this.#judge(fresh)
  }

  /** The processes of the program, and the group of each. */
  get #processes(): Map<number, number> {
    const started = this.box.output.matchAll(/^(\d+) starts in (\d+)$/gm)
    return new Map(
      [...started]
        .map(([, pid, group]) => [Number(pid), Number(group)] as const)
        .filter(([pid]) => !hasEnded(pid)),
    )
  }

  /** Also processes that have just been launched. */
  protected get living(): number[] {
    return [...new Set([...this.#processes.keys(), ...this.#launched])].filter(pid => !hasEnded(pid))
  }

  async #launch(wrapper: Wrapper): Promise<number> {
    this.ledger.note(`a start by ${wrapper}`)
    const { log, env, folder } = this.box
    const npm = ['sh', '-c', 'cd "$1" && exec npm start', 'sh', folder]
    const more = { ...this.#program.place, ...this.#env, NODE_OPTIONS: '--import fd-broker/auto' }
    const pid =
      wrapper === 'npm'
        ? await launchUnrelated(npm, { log, env: { ...env, VITEST: '', NODE_ENV: '', ...more } })
        : await this.#program.launch(wrapper, this.#env)
    this.#launched.add(pid)
    return pid
  }

  get #wrapper(): Wrapper {
    return this.draw(['import', 'import', 'options', 'npm'])
  }

  protected async startAgain(): Promise<void> {
    await this.#start()
  }

  async #start(): Promise<void> {
    await this.#launch(this.#wrapper)
    await until(
      'the program serves',
      async () => {
        if ((await this.status())?.role === 'serving') return true
        if (this.living.length === 0) await this.#launch('import')
        return false
      },
      CALM_MS,
      () => this.box.output,
    )
    await isAnswered(this.port)
    this.servesAgain()
    this.ledger.note(`${(await this.status())?.pid} serves`)
  }

  protected async reach(when: (typeof WHEN)[number]): Promise<void> {
    if (when === 'now') return
    if (when === 'soon') return this.soon()
    if (when === 'calm') {
      this.releases.write('good')
      this.releases.openGates(true)
    }
    const is = async () => {
      if (when === 'calm') return this.ledger.isCalm && (await this.#isIdle())
      const status = await this.status()
      if (status === null) return true
      const { draining = [], phase } = status
      if (when === 'probation') return draining.some(each => each.phase === 'standby')
      if (when === 'leaving') return draining.some(each => each.phase !== 'standby')
      return phase !== 'idle'
    }
    await this.ledger.reach(when, is, when === 'calm' ? 2 * EFFECT_MS : PHASE_MS)
  }

  async #isIdle(): Promise<boolean> {
    const status = await this.status()
    return status?.phase === 'idle' && status.role === 'serving' && this.#processes.size === 1
  }

  protected async give(order: AutoOrder): Promise<void> {
    const { ledger } = this
    const status = await this.status()
    const serving = status?.pid ?? 0
    const older = new Set((status?.draining ?? []).map(({ pid }) => pid))
    const others = [...this.#processes.keys()].filter(pid => pid !== serving)
    const joiner = others.find(pid => !older.has(pid))
    const elder = others.find(pid => older.has(pid))
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
        if (this.living.length < 5) ledger.give(order, () => this.#startNext())
        return
      case 'rollback':
        if (elder === undefined || this.#probationMs === 0)
          setTimeout(ledger.begin('no standby'), 100).unref()
        ledger.give(order, () => operators.rollback(this.control))
        return
      case 'reload':
        ledger.give(order, () => operators.reload(this.control))
        return
      case 'status':
        ledger.give(order, () => operators.askStatus(this.control))
        return
      case 'pause':
        if (serving !== 0) this.#pause(serving)
        return
      case 'stop':
      case 'stop --drain':
        this.stop(order, serving)
        return
      case 'Ctrl-C':
        this.#interrupt(serving)
        return
      case 'TERM in a start':
        // The version that starts serves next: no request may be lost.
        this.#isTold = false
        if (status?.phase !== 'idle' || others.some(pid => !older.has(pid)) || this.ended.length > 0) return
        this.releases.write('gated')
        ledger.give('start', () => this.#startNext())
        // An older version may end meanwhile.
        await until('it starts', () =>
          [...this.#processes.keys()].some(pid => pid !== serving && !others.includes(pid)),
        )
        // A process tells of itself when it has loaded fd-broker.
        await pause(ANNOUNCED_MS)
        this.#signal('TERM', serving)
        this.#isTold = true
        setTimeout(() => this.releases.openGates(true), this.below(400)).unref()
        return
      case 'death':
      case 'TERM':
      case 'INT':
      case 'QUIT':
      case 'HUP':
      case 'USR2':
        if (serving === 0) return
        this.ends(order, serving)
        // A program that handles the signal answers its requests.
        if (!this.#handles(order)) this.cuts(serving)
        this.#signal(order, serving)
        return
      default: {
        const [which, what = ''] = order.split(' ')
        const pid = which === 'joiner' ? joiner : elder
        if (pid === undefined || serving === 0) return
        setTimeout(ledger.begin(order), READY_TIMEOUT_MS).unref()
        if (!this.#handles(what)) this.cuts(pid)
        this.#signal(what, pid)
      }
    }
  }

  #handles(signal: string): boolean {
    return this.#shape.handles === true && (signal === 'TERM' || signal === 'INT')
  }

  #signal(what: string, pid: number): void {
    this.ledger.note(`${what} to ${pid}`)
    signalPid(pid, what === 'death' || what === 'dies' ? 'SIGKILL' : (`SIG${what}` as 'SIGTERM'))
  }

  /** INT to all processes of the group of the version that serves: the program and its wrapper. */
  #interrupt(serving: number): void {
    const group = this.#processes.get(serving)
    if (group === undefined) return
    this.ends('Ctrl-C', serving)
    for (const [pid, of] of this.#processes) if (of === group && !this.#handles('INT')) this.cuts(pid)
    this.ledger.note(`INT to the group of ${serving}, ${group}`)
    signalPid(-group, 'SIGINT')
  }

  #pause(pid: number): void {
    const ms = this.draw(STOP_MS)
    this.ledger.note(`${pid} is stopped for ${ms} ms`)
    const over = this.ledger.begin('pause')
    signalPid(pid, 'SIGSTOP')
    setTimeout(() => signalPid(pid, 'SIGCONT'), ms)
    setTimeout(over, ms + 1_000).unref()
  }

  /** The program is started once more. Rejects if it ends without having served. */
  async #startNext(): Promise<void> {
    const over = this.ledger.begin('joins')
    const from = this.box.output.length
    const pid = await this.#launch(this.#wrapper)
    let own: number | undefined
    const isServed = async () => {
      own ??= [...this.#processes].find(([each, group]) => each === pid || group === pid)?.[0]
      return own !== undefined && (await this.status())?.pid === own
    }
    try {
      await until('it serves, or ends', async () => hasEnded(pid) || (await isServed()), CALM_MS)
    } finally {
      over()
    }
    if (await isServed()) return
    const said = this.box.output.slice(from)
    const [, code = 'ERR_FDB_SUCCESSOR_EXITED'] = /does not serve: (ERR_FDB_\w+)/.exec(said) ?? []
    throw Object.assign(new Error(said.slice(0, 400)), { code })
  }

  protected async promised(order: AutoOrder, before: StatusReport): Promise<void> {
    const { ledger } = this
    const { pid, draining, phase } = before
    const standby = draining.find(each => each.phase === 'standby')
    if (standby === undefined && phase !== 'idle') return
    // The probation may end meanwhile.
    const mayEnd = standby !== undefined && (standby.standbySeconds ?? 0) < 1
    if (mayEnd && RETURNS.includes(order)) return
    const serves = async (holds: (pid: number) => boolean) => {
      const status = await this.status()
      return ledger.areAnswered && status?.role === 'serving' && holds(status.pid)
    }
    const same = (now: number) => now === pid
    const ends = async () => this.living.length === 0
    switch (order) {
      case 'upgrade':
      case 'start':
        if (this.releases.current === 'gated') return
        if (this.releases.current === 'good')
          return ledger.promised('the next version serves', () => serves(now => !same(now)), EFFECT_MS)
        return ledger.promised('the version serves on', () => serves(same), 2 * EFFECT_MS)
      case 'TERM in a start':
        if (!this.#isTold) return
        return ledger.promised('the version that starts serves', () => serves(now => !same(now)), EFFECT_MS)
      case 'rollback': {
        const answer = standby === undefined ? 'ERR_FDB_NO_STANDBY' : 'done'
        const has = async () =>
          ledger.orders.at(-1)?.answer === answer && serves(now => now === (standby?.pid ?? pid))
        return ledger.promised(`the rollback: ${answer}`, has, EFFECT_MS)
      }
      case 'elder TERM':
      case 'elder HUP':
      case 'elder dies':
      case 'reload':
      case 'status':
      case 'pause':
        return ledger.promised('the version serves on', () => serves(same), EFFECT_MS)
      case 'death':
      case 'QUIT':
      case 'HUP':
      case 'USR2': {
        // Node ends at once, as without fd-broker.
        if (standby === undefined) return ledger.promised('the version ends', ends, EFFECT_MS)
        const has = () => serves(now => now === standby.pid)
        return ledger.promised('the previous version serves', has, EFFECT_MS)
      }
      case 'TERM':
      case 'INT':
      case 'Ctrl-C':
      case 'stop':
      case 'stop --drain':
        return ledger.promised('the service ends', ends, EFFECT_MS)
      default:
    }
  }

  /** All trouble is over: one version is left, and serves. */
  async #calm(): Promise<void> {
    this.ledger.note('calm')
    this.releases.write('good')
    await until(
      'each order has its answer, and one version is left',
      async () => {
        this.releases.openGates(true)
        await this.maintain(false)
        const isOver = this.ledger.areAnswered && this.ended.length === 0
        return isOver && (await this.#isIdle())
      },
      CALM_MS,
      async () => `${this.living} ${JSON.stringify(await this.status())}`,
    )
    await isAnswered(this.port)
  }

  async #judge(fresh: Census): Promise<void> {
    const { ledger } = this
    const before = await this.status()
    await this.judgeUpgrade()
    await this.clients!.stop()
    await isAnswered(this.port)
    ledger.note(`${this.clients!.answers} answers`)
    await this.judgeLeft(fresh, () => true)
    await this.#judgeStatus(before?.pid ?? 0)
    this.judgeLog()
    if (this.box.output.includes('runs without upgrades'))
      ledger.wrong.push('a process runs without upgrades')
    ledger.judgeOrders(what => ANSWERS[what] ?? {})
    ledger.judgeClients(this.clients!.unanswered, {
      refused: { since: [...ENDS, 'ended'] },
      cut: { during: ['killed', 'stop --drain'], since: [...ENDS, 'ended'] },
    })
    const kept = /\.sock\.(?:lock|events|members|[0-9a-f]{16}(?:\.stderr|\.step)?)$/
    await this.judgeEnd(() => readdirSync(dirname(this.control)).filter(name => !kept.test(name)))
  }

  async #judgeStatus(before: number): Promise<void> {
    const { wrong } = this.ledger
    const status = await this.status()
    for (const port of this.#shape.ports as number[]) {
      const text = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } }).then(
        answer => answer.text(),
        String,
      )
      const is = `${this.releases.good} ${status?.pid}\n`
      if (text !== is) wrong.push(`port ${port} answers ${text}, not ${is}`)
    }
    if (status?.pid === before) wrong.push(`process ${before} was not replaced by the last upgrade`)
  }

  /** Descriptors of the process that serves, and the processes, when its probation is over. */
  protected async census(): Promise<Census> {
    const pid = await until(
      'one process is left',
      async () => {
        const status = await this.status()
        return status?.phase === 'idle' && status.draining.length === 0 ? status.pid : null
      },
      CALM_MS,
      async () => JSON.stringify(await this.status()),
    )
    const census = plainCensus(pid)
    for (const kind of memoryFilesOf(pid).keys()) census.delete(kind)
    for (const left of leftIn(pid)) census.set(left, 1)
    return census
  }
}
