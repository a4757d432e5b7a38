import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, readdirSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { OperatorClient } from '../../src/operator/client.js'
import { UPGRADE_SELF } from '../../src/operator/service-commands.js'
import type { SupervisorStatus } from '../../src/run/status.js'
import type { Sandbox } from '../e2e/cli-processes.js'
import { perLane } from '../lanes/lane.js'
import * as operators from '../orders/operators.js'
import { type Census, plainCensus } from './descriptor-census.js'
import { CALM_MS, DrawnOrders, EFFECT_MS, inShares } from './drawn-orders.js'
import { DrawnReleases, type Release } from './drawn-releases.js'
import { hasEnded, signalPid } from './launch.js'
import { handles } from './marked.js'
import { isAnswered, OpenLoop } from './open-loop.js'
import { PROGRAMS, Supervised } from './supervised.js'
import { until } from './until.js'

const PLAIN = join(PROGRAMS, 'plain.mjs')
const RESOURCES = fileURLToPath(new URL('../fixtures/open-resources.cjs', import.meta.url))
const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const EVERY_MS = 12
const SLOW_EVERY = 12
/** A phase that a drawn order waits for may never come: another order has ended it. */
const PHASE_MS = 1_500
const READY_TIMEOUT_MS = 2_500

/** Replaces the shell by a command that inherits no descriptor of this process, which a next image would not have. */
const WITHOUT_OTHERS =
  'for n in $(ls /proc/$$/fd); do [ "$n" -gt 2 ] && eval "exec $n>&-"; done; exec "$@" >>"$FDB_TEST_LOG" 2>&1'

/** The releases that the file names, and the share of each. */
const RELEASES: readonly Release[] = ['good', 'good', 'good', 'gated', 'gated', 'gated', 'crashes', 'sick']

/** The orders, and the share of each. */
const SHARES = {
  ...{ upgrade: 5, HUP: 3, USR2: 1, rollback: 3, reload: 1, status: 1, self: 2, start: 1 },
  ...{ stop: 1, 'stop --drain': 1, TERM: 1, INT: 1, QUIT: 1 },
  ...{ cancel: 1, 'bad file': 1, 'candidate dies': 1, 'server dies': 1, death: 1 },
} as const
type RunOrder = keyof typeof SHARES
const ORDERS = inShares(SHARES)
const ALONE: readonly RunOrder[] = ['TERM', 'INT', 'QUIT', 'rollback', 'USR2', 'HUP', 'stop']
const WHEN = [
  'calm',
  'calm',
  'calm',
  'now',
  'now',
  'soon',
  'soon',
  'starting',
  'starting',
  'trial',
  'probation',
  'retiring',
] as const

const ENDS = ['stop', 'stop --drain', 'TERM', 'INT', 'QUIT', 'death', 'ended'] as const
/** No process hears an order, or the one that has heard it has ended. */
const UNHEARD = { ERR_FDB_NO_HOLDER: ENDS, ERR_FDB_CHANNEL_CLOSED: ENDS, ERR_FDB_CHANNEL_RESET: ENDS }
const CUT_BY_IMAGE = {
  ERR_FDB_CHANNEL_CLOSED: [...ENDS, 'self'],
  ERR_FDB_CHANNEL_RESET: [...ENDS, 'self'],
} as const
const DIES = ['candidate dies', 'server dies', 'crashes'] as const
const STARTS = {
  ERR_FDB_ABORTED: [...ENDS, 'rollback', 'cancel'],
  ERR_FDB_SUCCESSOR_EXITED: DIES,
  ERR_FDB_DEADLINE: ['sick', 'gated'],
  ERR_FDB_UNHEALTHY: ['sick', 'gated', 'candidate dies'],
  ERR_FDB_CONFIG: ['bad file'],
} as const
const ANSWERS: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  upgrade: { ...UNHEARD, ...STARTS },
  cancel: { ...UNHEARD, ...STARTS },
  rollback: { ...UNHEARD, ...STARTS, ERR_FDB_NO_STANDBY: [], ERR_FDB_BUSY: [] },
  reload: { ...UNHEARD, ERR_FDB_BUSY: [], ERR_FDB_CONFIG: ['bad file'] },
  status: { ...UNHEARD, ...CUT_BY_IMAGE },
  // The installed release reads the file too.
  self: {
    ...UNHEARD,
    ERR_FDB_BUSY: [],
    ERR_FDB_ABORTED: ENDS,
    ERR_FDB_SUCCESSOR_EXITED: ['bad file'],
  },
  stop: UNHEARD,
  'stop --drain': UNHEARD,
  start: {
    ERR_FDB_CONTROL_TAKEN: [],
    ERR_FDB_ADDRESS_IN_USE: ENDS,
    ERR_FDB_CONFIG: ['bad file'],
    ERR_FDB_NO_HOLDER: ENDS,
  },
}

/** Random orders to `fd-broker run` with a plain server of Node, and clients at a fixed rate whose requests must all be answered. */
export class RunOrders extends DrawnOrders<RunOrder, SupervisorStatus, (typeof WHEN)[number]> {
  #run!: Supervised
  /** The processes of `fd-broker run`. */
  readonly #supervisors: number[] = []
  #settings: Record<string, string> = {}
  protected releases!: DrawnReleases

  protected get control(): string {
    return this.#run.control
  }

  protected get port(): number {
    return this.#run.port
  }

  protected get box(): Sandbox {
    return this.#run.sandbox
  }

  get #log(): string {
    return this.box.output
  }

  protected async prepare(): Promise<void> {
    this.#run = await Supervised.prepare()
    mkdirSync(this.#folder('resources'))
    this.releases = new DrawnReleases({
      ...{ file: this.#folder('run.json'), ledger: this.ledger, below: this.below, kinds: RELEASES },
      lastingMs: READY_TIMEOUT_MS + 1_000,
      textOf: (...release) => this.#textOf(...release),
    })
  }

  protected async perform(count: number): Promise<void> {
    const probation = this.draw([0, 300, 1_500])
    const healthyFor = this.draw([0, 0, 400])
    this.#settings = { probation: `${probation}ms`, healthyFor: `${healthyFor}ms` }
    this.#settings.restart = this.draw(['never', 'on-failure', 'always'])
    this.ledger.note(JSON.stringify(this.#settings))
    this.releases.write('good')
    await this.#start()
    const fresh = await this.settled()
    this.clients = new OpenLoop(this.port, EVERY_MS, n =>
      n % SLOW_EVERY === 0 ? `/?ms=${100 + ((n * 37) % 700)}` : '/',
    )
    await this.giveOrders(count, ORDERS, WHEN)
    await this.giveAlone(perLane(1, 5), ALONE, 'calm')
    await this.#calm()
    await this.#judge(fresh)
  }

  #folder(name: string): string {
    return join(this.box.folder, name)
  }

  #textOf(release: Release, _id: number, gate: string): string {
    if (release === 'bad file') return this.draw(['{', '{"command":[]}', '{"ready":"soon"}'])
    const plain = {
      ...(release === 'crashes' && { crash: true }),
      ...(release === 'gated' && { gate }),
      ...(release === 'sick' && { sick: PLAIN }),
    }
    return JSON.stringify({
      command: [PLAIN],
      listen: { web: `tcp://127.0.0.1:${this.port}` },
      env: { FDB_PLAIN: JSON.stringify(plain) },
      ...{ ready: 'http:/health', readyTimeout: `${READY_TIMEOUT_MS}ms`, stopTimeout: '10s' },
      ...this.#settings,
    })
  }

  /** Starts `fd-broker run`, and waits until a version serves. */
  async #start(): Promise<void> {
    const { pid } = this.#launch()
    this.#supervisors.push(pid!)
    await until(
      'a version serves',
      async () => (await this.status())?.role === 'serving',
      CALM_MS,
      () => this.#story,
    )
    await isAnswered(this.port)
    this.servesAgain()
    this.ledger.note(`run ${pid} serves`)
  }

  get #story(): string {
    return `${this.ledger.story.join('\n')}\n${this.#log}`
  }

  #launch(): ChildProcess {
    const argv = [CLI, 'run', '--control', this.control, '--config', this.#folder('run.json')]
    const env = {
      ...this.box.env,
      NODE_OPTIONS: `--require ${RESOURCES}`,
      FDB_RESOURCES: this.#folder('resources'),
    }
    const log = this.box.log
    const child = spawn('bash', ['-c', WITHOUT_OTHERS, 'bash', process.execPath, ...argv], {
      env: { ...env, FDB_TEST_LOG: log },
      stdio: 'ignore',
      detached: true,
    })
    child.on('error', () => {})
    return child
  }

  protected async status(): Promise<SupervisorStatus | null> {
    return (await operators.status(this.control)) as SupervisorStatus | null
  }

  get #pid(): number | null {
    return this.#supervisors.find(pid => !hasEnded(pid)) ?? null
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
      if (when === 'probation') return status.probationSeconds !== null && status.role === 'serving'
      if (when === 'retiring') return status.draining?.length !== 0
      return status.phase === when
    }
    await this.ledger.reach(when, is, when === 'calm' ? 2 * EFFECT_MS : PHASE_MS / 3)
  }

  protected give(order: RunOrder): void {
    const { ledger } = this
    const pid = this.#pid
    const signal = (name: NodeJS.Signals) => {
      ledger.note(name)
      // Before Node has loaded the command, each signal ends it.
      if (pid !== null && (name === 'SIGKILL' || handles(pid, 'SIGTERM'))) signalPid(pid, name)
    }
    switch (order) {
      case 'upgrade':
        this.releases.draw()
        ledger.give(order, () => operators.upgrade(this.control))
        return
      case 'cancel':
        this.releases.draw()
        ledger.give(order, () => this.cancelled())
        return
      case 'HUP':
        this.releases.draw()
        signal('SIGHUP')
        return
      case 'USR2':
        signal('SIGUSR2')
        return
      case 'rollback':
        setTimeout(ledger.begin('rollback'), 1_000).unref()
        ledger.give(order, () => operators.rollback(this.control))
        return
      case 'reload':
        ledger.give(order, () => operators.reload(this.control))
        return
      case 'status':
        ledger.give(order, () => operators.askStatus(this.control))
        return
      case 'self':
        ledger.give(order, () => this.#replaceImage())
        return
      case 'start':
        ledger.give(order, () => this.#startSecond())
        return
      case 'bad file':
        this.releases.write(order)
        return
      case 'candidate dies':
        void this.#kill(order, ({ upgrade }) => upgrade?.pid ?? null)
        return
      case 'server dies':
        void this.#kill(order, ({ pid, role }) => (role === 'serving' ? (pid ?? null) : null))
        return
      case 'death':
        if (pid === null) return
        this.ends(order, pid)
        signal('SIGKILL')
        return
      case 'stop':
      case 'stop --drain':
        this.stop(order, pid)
        return
      default:
        if (pid === null) return
        this.ends(order, pid)
        signal(`SIG${order}`)
    }
  }

  async #kill(
    order: 'candidate dies' | 'server dies',
    which: (status: SupervisorStatus) => number | null,
  ): Promise<void> {
    const status = await this.status()
    const pid = status === null ? null : which(status)
    if (pid === null) return
    this.kill(order, pid, READY_TIMEOUT_MS)
    if (order === 'server dies') this.#noteUnserved(pid)
    if (this.#settings.restart !== 'never') return
    // `run` may end with its program.
    const { supervisor } = status!
    const over = this.ends('ended', supervisor.pid)
    setTimeout(() => {
      if (hasEnded(supervisor.pid)) return
      this.ended = this.ended.filter(each => each !== over)
      over(0)
    }, READY_TIMEOUT_MS).unref()
  }

  /** No version serves until another one does: the requests sent meanwhile wait in the queue of the listener. */
  #noteUnserved(died: number): void {
    const over = this.ledger.begin('unserved')
    const isServed = async () => {
      const status = await this.status()
      return status?.role === 'serving' && status.pid !== died
    }
    void until('a version serves', isServed, CALM_MS).then(
      () => over(),
      () => over(),
    )
  }

  /** `fd-broker upgrade --self`: the connection ends without an answer. */
  async #replaceImage(): Promise<void> {
    const over = this.ledger.begin('self')
    using client = await OperatorClient.connect(this.control)
    await client.command(UPGRADE_SELF, '', { timeout: operators.ANSWER_MS }).catch(error => {
      if (!/^ERR_FDB_CHANNEL_(CLOSED|RESET)$/.test(error.code)) throw error
    })
    setTimeout(over, 1_000).unref()
  }

  /** A second `fd-broker run` at the same control path. */
  async #startSecond(): Promise<void> {
    const before = this.#log.length
    const child = this.#launch()
    this.#supervisors.push(child.pid!)
    const ended = await until('it is refused, or serves', async () => {
      if (child.exitCode !== null || child.signalCode !== null) return 'ended'
      return (await this.status())?.supervisor.pid === child.pid ? 'serves' : null
    })
    if (ended === 'serves') return
    // An order to end has reached it before it could answer.
    const unknown = child.signalCode === null ? 'none' : 'ERR_FDB_NO_HOLDER'
    const [code = unknown] =
      this.#log.slice(before).match(/ERR_FDB_(?:CONTROL_TAKEN|ADDRESS_IN_USE|CONFIG)/) ?? []
    throw Object.assign(new Error(`code ${child.exitCode}, signal ${child.signalCode}`), { code })
  }

  protected async maintain(waits: boolean): Promise<void> {
    const status = this.#pid === null ? null : await this.status()
    if (waits && this.#pid !== null && (this.ended.length > 0 || status?.phase === 'ending'))
      await until('it ends, or serves', async () => this.#pid === null, PHASE_MS).catch(() => {})
    if (this.#pid !== null) {
      const { role, supervisor } = (await this.status()) ?? {}
      // A second one serves.
      if (role === 'serving' && supervisor !== undefined && !this.leaving.has(supervisor.pid))
        this.servesAgain()
      return
    }
    if (this.ended.length === 0) {
      this.ends('ended', null)
      this.ledger.wrong.push('run has ended without an order')
    }
    // A service manager has no bad file for ever.
    this.releases.write('good')
    await this.#start()
  }

  /** Judges the version that serves, and `run`. */
  protected async promised(order: RunOrder, before: SupervisorStatus): Promise<void> {
    const { ledger } = this
    const { pid, supervisor, lastFailure } = before
    const release = this.releases.current
    const serves = async (isIt: (now: number) => boolean) => {
      const status = await this.status()
      const isOver = ledger.areAnswered && status?.role === 'serving' && status.phase === 'idle'
      return isOver && isIt(status.pid ?? 0) && status.supervisor.pid === supervisor.pid
    }
    switch (order) {
      case 'upgrade':
      case 'HUP':
        if (release === 'gated') return
        if (release === 'good')
          await ledger.promised('the next version serves', () => serves(now => now !== pid), EFFECT_MS)
        else {
          const fails = async () => {
            const { lastFailure: now } = (await this.status()) ?? {}
            return JSON.stringify(now) !== JSON.stringify(lastFailure) && serves(now => now === pid)
          }
          await ledger.promised('the version fails, and the one before serves on', fails, EFFECT_MS)
        }
        return
      case 'rollback':
        await ledger.promised(
          supervisor.before === null ? 'there is no version to return to' : 'the version before serves',
          async () =>
            ledger.orders.at(-1)?.answer === (supervisor.before === null ? 'ERR_FDB_NO_STANDBY' : 'done') &&
            serves(now => (now === pid) === (supervisor.before === null)),
          EFFECT_MS,
        )
        return
      case 'reload':
      case 'status':
      case 'self':
      case 'start':
        await ledger.promised('the version serves on', () => serves(now => now === pid), EFFECT_MS)
        return
      case 'USR2':
        await ledger.promised(
          'the version gets the signal',
          async () => this.#log.includes(`\n${pid} SIGUSR2\n`) && serves(now => now === pid),
          EFFECT_MS,
        )
        return
      case 'TERM':
      case 'INT':
      case 'QUIT':
        await ledger.promised(
          `the version gets SIG${order}, and run ends`,
          async () => this.#log.includes(`\n${pid} SIG${order}\n`) && hasEnded(supervisor.pid),
          EFFECT_MS,
        )
        return
      case 'stop':
      case 'stop --drain':
      case 'death':
        await ledger.promised('all processes end', async () => this.box.processes().length === 0, EFFECT_MS)
        return
      default:
    }
  }

  /** All trouble is over: a version serves, and no order is open. */
  async #calm(): Promise<void> {
    this.ledger.note('calm')
    this.releases.write('good')
    this.releases.openGates(true)
    await until(
      'each order has its answer, and a version serves',
      async () => {
        this.releases.openGates(true)
        await this.maintain(false)
        const status = await this.status()
        const isCalm = status?.role === 'serving' && status.phase === 'idle' && status.draining?.length === 0
        return this.ledger.areAnswered && this.ended.length === 0 && isCalm
      },
      CALM_MS,
      async () => JSON.stringify(await this.status()),
    )
    await isAnswered(this.port)
  }

  async #judge(fresh: Census): Promise<void> {
    const { ledger } = this
    await this.judgeUpgrade()
    await this.clients!.stop()
    ledger.note(`${this.clients!.answers} answers`)
    // A timer of the start may have been there.
    await this.judgeLeft(
      fresh,
      text =>
        !/ resource /.test(text) ||
        Number.parseInt(text, 10) > (fresh.get(text.replace(/^\d+ |, not \d+$/g, '')) ?? 0),
    )
    const status = await this.status()
    const says = { role: status?.role, phase: status?.phase, supervisor: status?.supervisor.pid }
    const is = { role: 'serving', phase: 'idle', supervisor: this.#pid }
    if (JSON.stringify(says) !== JSON.stringify(is))
      ledger.wrong.push(`the status says ${JSON.stringify(says)}, and there is ${JSON.stringify(is)}`)
    const pid = Number((await (await fetch(this.#run.url)).text()).trim())
    if (pid !== status?.pid) ledger.wrong.push(`${pid} answers, and the status says ${status?.pid}`)
    this.judgeLog()
    ledger.judgeCancelled()
    ledger.judgeOrders(what => ANSWERS[what] ?? {})
    ledger.judgeClients(this.clients!.unanswered, {
      refused: { since: ENDS },
      // Versions that get a signal to end answer their requests.
      cut: {
        during: ['killed', 'death', 'stop --drain'],
        since: ENDS,
        // If `run` ends before a version serves again, only its program could have accepted them.
        waiting: ['unserved', ...ENDS],
      },
    })
    // A version whose supervisor was killed leaves what it has said.
    const kept = ledger.had(['death'], 0, performance.now())
      ? /^run\.sock\.(?:lock|events|[0-9a-f]{16}(?:\.stderr|\.step)?)$/
      : /^run\.sock\.(?:lock|events)$/
    await this.judgeEnd(() => readdirSync(this.#folder('run')).filter(name => !kept.test(name)))
  }

  /** Descriptors of `run`, its processes, and what keeps its event loop alive, when its probation is over. */
  protected async census(): Promise<Census> {
    await until(
      'the probation is over',
      async () => {
        const status = await this.status()
        return status?.probationSeconds === null && status.draining?.length === 0
      },
      CALM_MS,
      async () => JSON.stringify(await this.status()),
    )
    const pid = this.#pid!
    const processes = this.box.processes().map(line => line.replace(/\d+/g, 'N').slice(0, 120))
    const census = plainCensus(pid)
    for (const each of [...(await this.#resources(pid)), ...processes.map(line => `process ${line}`)])
      census.set(each, (census.get(each) ?? 0) + 1)
    return census
  }

  #resources(pid: number): Promise<string[]> {
    return new Promise((resolve, reject) => {
      const socket = connect(join(this.#folder('resources'), `${pid}.sock`))
      let text = ''
      socket.on('data', chunk => {
        text += chunk
      })
      socket.on('end', () => resolve(JSON.parse(text).map((name: string) => `resource ${name}`)))
      socket.on('error', reject)
    })
  }
}
