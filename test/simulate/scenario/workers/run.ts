import { LACKS } from '../../faults.js'
import type { Code } from '../../globals.js'
import type { Listener, Open, Stream } from '../../kernel/objects.js'
import type { Origin, SimulatedProcess } from '../../process.js'
import type { World } from '../../world.js'
import { type History, Lasts, startClients } from '../client.js'
import { Endings } from '../endings.js'
import { FullGroup, type Served } from '../full-group.js'
import { callLate, wrongOfQueues } from '../late-callers.js'
import { startOperator } from '../operator.js'
import { performActs } from '../performed-acts.js'
import { PORT, SECOND_PORT, type Version } from '../program.js'
import { MAIN_SCRIPT, Mains } from './mains.js'
import type { Part, Who, WorkersAct, WorkersSchedule } from './schedule.js'
import {
  askedBefore,
  hasGivenUp,
  servingIn,
  type Told,
  wrongAfterEnd,
  wrongAtLast,
  wrongOfAsked,
  wrongOfClients,
} from './verdict.js'
import { WorkerProcesses } from './worker-processes.js'

const CLIENTS = 3
const CALLERS = 2
const START_MS = 10_000
/** From the first act, until everything that was postponed has happened: a hung worker is replaced, and killed; a start is repeated. */
const RUN_MS = 50_000
const UPGRADE_MS = 20_000
/** An order is answered, also by processes that were stopped. */
const ANSWER_MS = 25_000
/** Longer than the probation of the workers. */
const CALM_MS = 5_000
/** A second TERM after so long ends the workers at once. */
const AGAIN_MS = 2_500
/** A process that has died has a next one after so long, also while another main process takes over. */
const AGAIN_BY_MS = 3_500
/** After one of these the main process that got an order to end may not be the one that serves, or not live any more. */
const DISTURBING: ReadonlySet<string> = new Set(['kill', 'stop', 'lack', 'dies', 'hangs', 'break', 'bad'])
/** Connections that do not move drain for 30 s. */
const END_MS = 45_000
/** Requests take so long when the service is stopped, and began within so long before. The first worker leaves half of the time to stop after that. */
const [SLOW_MS, SLOWEST_MS, SLOW_FOR_MS] = [300, 2_200, 400]
/** A worker has begun with a request that came so long before. */
const BEGUN_MS = 20
/** A listener is closed, and the main process has heard it, after about so long. */
const CLOSES_MS = 0.3

/** One run with workers: main processes, workers, clients, operators. */
export class WorkersRun {
  readonly #code: Code
  readonly #world: World
  readonly #schedule: WorkersSchedule
  /** The time of the acts and of all that follows from them. */
  readonly #forMs: number
  readonly #mains: Mains
  readonly #workers: WorkerProcesses
  readonly #endings: Endings
  readonly #fullGroup: FullGroup
  readonly #counted = new Map<Who, number>()
  readonly #wrong: string[] = []
  readonly #lasts = new Lasts(CLIENTS + CALLERS)
  #clients: History[] = []
  /** The number of workers that an order has set last. */
  #wanted: number
  /** Workers end with their last connections. */
  #isQuitting = false
  /** When no process was left that had the state: the members of other workers only follow it. */
  #lostAt = Number.NEGATIVE_INFINITY
  /** The times when no process was left that had a listener. */
  readonly #closed: number[] = []
  /** The operators that have given orders; each ends with its answer. */
  readonly #operators: { readonly what: string; readonly p: SimulatedProcess }[] = []
  /** Orders to end the service: when, and the main process that got the signal. */
  readonly #ends: { readonly at: number; readonly by: SimulatedProcess | null }[] = []

  constructor(code: Code, world: World, schedule: WorkersSchedule, forMs = RUN_MS) {
    this.#code = code
    this.#world = world
    this.#schedule = schedule
    this.#forMs = forMs
    this.#wanted = schedule.workers
    this.#workers = new WorkerProcesses(code, world, schedule.queues === true)
    this.#workers.onJoined = version => this.#demandState(version)
    world.execute = origin => this.#execute(origin)
    this.#fullGroup = new FullGroup(world, () => this.#served())
    this.#mains = new Mains(code, world, schedule)
    this.#endings = new Endings(world, {
      versions: () => this.#workers.all,
      mayEnd: () => this.#stoppedAt <= world.now,
    })
    world.watchDeaths(() => {
      this.#noteLoss()
      const living = [...this.#mains.living, ...this.#workers.living]
      const isListener = (open: Open) => open.kind === 'listener' && (open as Listener).tcp
      if (!living.some(({ fds }) => [...fds.values()].some(isListener))) this.#closed.push(world.now)
    })
  }

  /** When an order to end the service was given. A main process that ends before it has taken over is not the service. */
  get #stoppedAt(): number {
    const orders = this.#ends.filter(({ by }) => by === null || !hasGivenUp(by))
    return Math.min(...orders.map(({ at }) => at))
  }

  run(): string[] {
    const world = this.#world
    if (!world.run(() => servingIn(this.#workers).length === this.#wanted, START_MS))
      return ['the first workers do not serve']
    const lasts = this.#lasts
    // Each worker but the first hears of changes a little later.
    lasts.mayLag = () => true
    this.#clients = startClients(this.#code, world, lasts, CALLERS)
    world.run(() => false, 100 + world.below(100))
    for (const act of this.#schedule.acts) if (!('from' in act)) this.#prepare(act)
    this.#mains.onCommit = () => world.after(0, () => this.#onCommit())
    for (const { name, steps } of world.processes.values()) this.#counted.set(name as Who, steps)
    this.#act()
    const wrong = this.#wrongAtEnd()
    return [...new Set([...this.#wrong, ...wrong])]
  }

  /** After all trouble the workers are replaced once more, and then the service is ended. */
  #wrongAtEnd(): string[] {
    const world = this.#world
    world.endFaults()
    if (this.#stoppedAt < Number.POSITIVE_INFINITY) {
      const wrong = this.#startAgain()
      if (wrong !== null) return [wrong]
    }
    // A process that had no descriptor or memory reads an order late, and refuses a second upgrade until then.
    const unanswered = () => this.#operators.filter(({ p }) => !p.dead)
    world.run(() => unanswered().length === 0, ANSWER_MS)
    for (const { what } of unanswered()) this.#wrong.push(`the order "${what}" has no answer`)
    const begun = world.now
    const told: Told = { status: null, failed: null, isUpgraded: false }
    startOperator(this.#code, world, 'upgrade', {
      upgraded: () => {
        told.isUpgraded = true
      },
      failed: code => {
        told.failed = code
      },
    })
    world.run(() => told.isUpgraded || told.failed !== null, UPGRADE_MS)
    world.run(() => false, CALM_MS)
    startOperator(this.#code, world, 'status', {
      status: status => {
        told.status = status
      },
    })
    world.run(() => told.status !== null, START_MS)
    const seen = {
      world,
      schedule: this.#schedule,
      mains: this.#mains,
      workers: this.#workers,
      clients: this.#clients,
      stoppedAt: this.#stoppedAt,
      lostAt: this.#lostAt,
      closed: this.#closed,
      begun,
      told,
    }
    const queues = this.#schedule.queues ? world.kernel.resets.filter(({ killed }) => !killed) : []
    const wrong = [
      ...wrongAtLast(seen),
      ...wrongOfClients(seen),
      ...wrongOfQueues(queues),
      ...this.#wrongOfOrders(),
      ...this.#endings.wrong,
      ...this.#fullGroup.wrong,
    ]
    if (wrong.length > 0) return wrong
    const before = world.kernel.resets.length
    const takesMs = this.#makeSlow()
    const isUnderWay = ({ askedAt }: History) => askedAt !== null && askedAt < world.now - BEGUN_MS
    const asked = takesMs === 0 ? [] : this.#clients.filter(isUnderWay).map(askedBefore)
    startOperator(this.#code, world, 'stop service')
    callLate(world, PORT)
    world.run(() => this.#mains.living.length === 0, END_MS)
    world.run(() => false, 100)
    const resets = world.kernel.resets.slice(before)
    return [...wrongAfterEnd(seen), ...wrongOfQueues(resets), ...wrongOfAsked(asked, takesMs)]
  }

  /** In half of the runs the workers are slow when the service is stopped: they change the state a while after the order. Returns how long a request takes. */
  #makeSlow(): number {
    const world = this.#world
    if (this.#schedule.late !== undefined || world.below(2) === 0) return 0
    const takesMs = SLOW_MS + world.below(SLOWEST_MS - SLOW_MS)
    for (const worker of this.#workers.all) worker.takesMs = takesMs
    world.run(() => false, SLOW_FOR_MS)
    return takesMs
  }

  /** The service ends with a main process that has taken over and then gets a signal to end, and that is no error. */
  #wrongOfOrders(): string[] {
    const told = this.#ends.flatMap(({ by }) => by ?? [])
    const all = this.#mains.all
    return told.filter(hasGivenUp).flatMap(p => {
      const place = all.indexOf(p)
      const before = all.slice(0, place).filter(other => !told.includes(other) && other.dead)
      const replaced = before.filter(({ diedAt, exit }) => exit.code === 0 && diedAt > p.startedAt)
      const byOther = (diedAt: number) => all.slice(place + 1).some(({ startedAt }) => startedAt < diedAt)
      if (replaced.every(({ diedAt }) => byOther(diedAt))) return []
      return [`${p.name} has taken over, got an order to end, and failed`]
    })
  }

  /** Starts the service again after its end. Returns what is wrong; null if nothing is. */
  #startAgain(): string | null {
    const world = this.#world
    const living = () => [...this.#mains.living, ...this.#workers.living]
    const isDisturbed = this.#schedule.acts.some(({ what }) => DISTURBING.has(what))
    // After QUIT a connection may stay for ever; a main process that is replaced or killed may lose an order.
    if (this.#isQuitting || isDisturbed) {
      for (let orders = 0; orders < 2 && this.#mains.living.length > 0; orders++) {
        this.#signal('SIGTERM')
        world.run(() => living().length === 0, AGAIN_MS)
      }
      world.run(() => living().length === 0, END_MS)
    }
    if (living().length > 0) return `the service was ended, and ${living().map(({ name }) => name)} live`
    this.#lasts.forget()
    this.#mains.keepsAlive = true
    this.#mains.start()
    const isServing = () => servingIn(this.#workers).length === this.#schedule.workers
    return world.run(isServing, START_MS) ? null : 'after its end the service does not start again'
  }

  #execute(origin: Origin): SimulatedProcess {
    const slot = origin.script === MAIN_SCRIPT ? null : Number(origin.env.FD_BROKER_WORKER)
    const before = slot === null ? [] : this.#workers.ofSlot(slot)
    const p = slot === null ? this.#mains.start(origin) : this.#workers.start(origin)
    // A process that starts in place of one that has ended needs no more memory than that one.
    this.#fullGroup.started(p, before.length > 0 ? before.map(servedOf) : this.#served())
    if (!this.#counted.has(p.name as Who)) this.#counted.set(p.name as Who, 0)
    return p
  }

  /** The processes of workers that serve, or have served. */
  #served(): Served[] {
    return this.#workers.all.map(servedOf)
  }

  /** A later main process begins to serve: from now on calls of the one before count. */
  #onCommit(): void {
    this.#mains.onCommit = () => {}
    for (const act of this.#schedule.acts) if ('from' in act) this.#prepare(act)
  }

  /** Adds the faults that happen at a call. */
  #prepare(act: WorkersAct): void {
    if (!('call' in act)) return
    const { who, what } = act
    const call = (this.#named(who)?.calls ?? 0) + act.call
    if (what === 'kill') this.#world.add({ what, who, call })
    else if (what === 'stop') this.#world.add({ what, who, call, ms: act.ms! })
    else this.#world.add({ what, who, call, calls: act.calls!, code: act.code!, of: LACKS[act.code!] })
  }

  #named(who: string): SimulatedProcess | undefined {
    return [...this.#world.processes.values()].find(({ name }) => name === who)
  }

  /** Runs the world, and does what is scheduled when its time has come. */
  #act(): void {
    this.#world.tap?.begin(this.#world.now)
    performActs(this.#world, this.#schedule.acts, {
      ms: this.#forMs,
      isReached: ({ after, steps }) => {
        const p = this.#named(after)
        return p !== undefined && (p.dead || p.steps >= (this.#counted.get(after) ?? 0) + steps)
      },
      perform: act => this.#do(act),
    })
  }

  #do(act: WorkersAct): void {
    const world = this.#world
    switch (act.what) {
      case 'kill':
      case 'stop':
      case 'lack':
        return
      case 'start':
        this.#mains.start()
        return
      case 'dies':
        for (const p of this.#withPart(act.part)) {
          world.kill(p, 'is killed')
          this.#demandAnother(p)
        }
        return
      case 'hangs':
        for (const p of this.#withPart(act.part)) {
          world.note(p, `is stopped for ${act.ms} ms`)
          world.stop(p, act.ms)
        }
        return
      case 'full':
        world.kernel.memory.fill(act.ms)
        return
      case 'break':
        this.#break(act.which)
        return
      case 'unlisten':
        this.#unlisten(act.part)
        return
      case 'bad':
        this.#workers.bad = act.how
        world.after(act.ms, () => {
          this.#workers.bad = null
        })
        return
      case 'signal':
        this.#signal(act.signal)
        return
      default:
        this.#order(act.what)
    }
  }

  /** Serving workers close their second listener, while clients connect to it. */
  #unlisten(part: Part | 'workers'): void {
    callLate(this.#world, SECOND_PORT, CLOSES_MS)
    const chosen = part === 'workers' ? null : this.#withPart(part)
    for (const { p, unlisten } of servingIn(this.#workers)) {
      if (chosen !== null && !chosen.includes(p)) continue
      this.#world.note(p, 'calls unlisten()')
      p.enter()
      p.run(unlisten)
    }
  }

  /** A full control group bars no process that starts in place of one that has ended. */
  #demandAnother({ name }: SimulatedProcess): void {
    const world = this.#world
    const { memory } = world.kernel
    const worker = this.#workers.all.find(({ p }) => p.name === name)
    const { acts, workers } = this.#schedule
    if (worker === undefined || worker.slot >= workers) return
    if (memory.fullSince > world.now || acts.some(({ what }) => what !== 'dies' && DISTURBING.has(what)))
      return
    world.after(AGAIN_BY_MS, () => {
      const isFull = memory.fullSince < world.now - AGAIN_BY_MS
      if (isFull && this.#workers.ofSlot(worker.slot).every(({ p }) => p.dead))
        this.#wrong.push(`the memory is full, ${name} has died, and no process has its place`)
    })
  }

  #order(
    what: Extract<WorkersAct, { readonly when: object }>['what'] & Parameters<typeof startOperator>[2],
  ): void {
    const begun = this.#world.now
    const done = () => {
      if (what === 'stop service') this.#end()
      if (what === 'upgrade' || what === 'restart') this.#demandReplaced(what, begun)
      const [, count] = /^set (\d)$/.exec(what) ?? []
      if (count !== undefined) this.#wanted = Number(count)
    }
    if (what === 'stop service') this.#ends.push({ at: this.#world.now, by: null })
    const p = startOperator(this.#code, this.#world, what, { done })
    this.#operators.push({ what, p })
  }

  /** The answer to an order to replace all workers has come: in each, a process serves, or has served, that was started after the order. */
  #demandReplaced(what: string, begun: number): void {
    const { acts, workers } = this.#schedule
    if (acts.some(act => act.what === 'rollback')) return
    const counts = acts.flatMap(act => /^set (\d)$/.exec(act.what)?.[1] ?? [])
    const least = Math.min(workers, ...counts.map(Number))
    for (let slot = 0; slot < least; slot++)
      if (!this.#workers.ofSlot(slot).some(({ hasBegun, p }) => hasBegun && p.startedAt >= begun))
        this.#wrong.push(
          `the answer to "${what}" of ${begun.toFixed(3)} came, and worker ${slot} was not replaced`,
        )
  }

  /** The state is lost if no process is left that has the memory files of the first worker: a new main process has none before that worker reconnects. */
  #noteLoss(): void {
    const first = this.#workers.ofSlot(0).map(({ p }) => p)
    const files = new Set(first.flatMap(({ memoryFiles }) => [...memoryFiles]))
    const living = [...this.#mains.living, ...first.filter(({ dead }) => !dead)]
    if (living.some(({ memoryFiles }) => [...memoryFiles].some(file => files.has(file)))) return
    this.#lostAt = this.#world.now
    this.#lasts.forget()
  }

  /** A process of a worker that has joined has each change that was acknowledged before it was started. */
  #demandState({ notes, p }: Version): void {
    const due = this.#clients.flatMap(({ acknowledged }) =>
      acknowledged.filter(({ at }) => at > this.#lostAt && at < p.startedAt),
    )
    const lost = due.filter(({ key }) => !notes!.has(key))
    if (lost.length > 0)
      this.#wrong.push(`${p.name} has joined and lacks ${lost.length} of ${due.length} acknowledged changes`)
  }

  #end(): void {
    this.#mains.keepsAlive = false
  }

  #signal(signal: NodeJS.Signals): void {
    const [p] = this.#withPart('main')
    if (p === undefined) return
    this.#world.note(p, `gets ${signal}`)
    if (signal === 'SIGQUIT') this.#isQuitting = true
    if (signal === 'SIGTERM' || signal === 'SIGINT' || signal === 'SIGQUIT')
      this.#ends.push({ at: this.#world.now, by: p })
    this.#world.deliver(p, signal)
  }

  /** The living processes that have a part now: at most one. */
  #withPart(part: Part): SimulatedProcess[] {
    if (part === 'main') return this.#mains.living.slice(-1)
    const slot = Number(part.slice('worker '.length))
    const living = this.#workers.ofSlot(slot).filter(({ p }) => !p.dead)
    return living.slice(-1).map(({ p }) => p)
  }

  /** Breaks one of the connections between processes of the service. */
  #break(which: number): void {
    const processes = [...this.#mains.living, ...this.#workers.living]
    const pids = new Set(processes.map(({ pid }) => pid))
    const ends = processes.flatMap(p =>
      [...p.fds.values()].filter((open): open is Stream => {
        if (open.kind !== 'stream') return false
        const { tcp, peer, peerIs } = open as Stream
        return !tcp && peer !== null && peerIs.pid !== p.pid && pids.has(peerIs.pid)
      }),
    )
    const end = ends[which % Math.max(1, ends.length)]
    if (end === undefined) return
    this.#world.note(end.peerIs.process, 'loses a connection to another process of the service')
    this.#world.kernel.breakConnection(end)
  }
}

function servedOf({ p, served }: Version): Served {
  return { p, to: served.at(-1)?.to ?? 0 }
}
