import { LACKS } from '../../faults.js'
import type { Code } from '../../globals.js'
import { Inode } from '../../kernel/objects.js'
import type { Origin, SimulatedProcess } from '../../process.js'
import type { World } from '../../world.js'
import { FullGroup } from '../full-group.js'
import { callLate, wrongOfQueues } from '../late-callers.js'
import { type OperatorOrder, SOON_MS as STOP_SOON_MS, startOperator } from '../operator.js'
import { performActs } from '../performed-acts.js'
import { PORT } from '../program.js'
import { type ClientHistory, startCallers } from './clients.js'
import { PROGRAM, Programs } from './programs.js'
import type { Part, SupervisedAct, SupervisedSchedule, Who } from './schedule.js'
import { Signals } from './signals.js'
import { type SupervisorProcess, Supervisors } from './supervisors.js'
import { type Order, wrongAfterEnd, wrongAtLast, wrongOfClients, wrongOfOrders } from './verdict.js'

const CLIENTS = 4
const START_MS = 10_000
/** From the first act, until everything that was postponed has happened. */
const RUN_MS = 40_000
const UPGRADE_MS = 20_000
/** Longer than a probation and a stop timeout. */
const CALM_MS = 6_000
const END_MS = 20_000

/** One run of `fd-broker run`: its process, the versions of a program, clients, operators. */
export class SupervisedRun {
  readonly #code: Code
  readonly #world: World
  readonly #schedule: SupervisedSchedule
  /** The time of the acts and of all that follows from them. */
  readonly #forMs: number
  readonly #programs: Programs
  readonly #supervisors: Supervisors
  readonly #signals: Signals
  readonly #fullGroup: FullGroup
  readonly #counted = new Map<string, number>()
  readonly #orders: Order[] = []
  readonly #wrong: string[] = []
  #clients: ClientHistory[] = []

  constructor(code: Code, world: World, schedule: SupervisedSchedule, forMs = RUN_MS) {
    this.#code = code
    this.#world = world
    this.#schedule = schedule
    this.#forMs = forMs
    for (const path of ['/srv']) world.kernel.names.set(path, new Inode('dir', path, 0o755))
    world.kernel.names.set(PROGRAM, new Inode('file', PROGRAM, 0o755))
    this.#programs = new Programs(code, world, () => 20 + world.below(400))
    this.#fullGroup = new FullGroup(world, () => this.#programs.served)
    world.execute = origin => this.#execute(origin)
    this.#supervisors = new Supervisors(code, world, schedule)
    this.#signals = new Signals(world, this.#supervisors, this.#programs, schedule)
  }

  run(): string[] {
    const world = this.#world
    if (!world.run(() => this.#programs.serving.length === 1, START_MS))
      return ['the first version does not serve']
    world.run(() => false, 100)
    this.#clients = startCallers(this.#code, world, CLIENTS)
    world.run(() => false, 100 + world.below(6_000))
    for (const act of this.#schedule.acts) this.#prepare(act)
    for (const { name, steps } of world.processes.values()) this.#counted.set(name, steps)
    world.tap?.begin(world.now)
    performActs(world, this.#schedule.acts, {
      ms: this.#forMs,
      isReached: ({ after, steps }) => {
        const p = this.#named(after)
        return p !== undefined && (p.dead || p.steps >= (this.#counted.get(after) ?? 0) + steps)
      },
      perform: act => this.#do(act),
    })
    return [...new Set([...this.#wrong, ...this.#wrongAtEnd()])]
  }

  /** After all trouble the program is upgraded once more, and then the service is ended. */
  #wrongAtEnd(): string[] {
    const world = this.#world
    world.endFaults()
    const seen = () => ({
      world,
      schedule: this.#schedule,
      supervisors: this.#supervisors,
      programs: this.#programs,
      clients: this.#clients,
      orders: this.#orders,
      signals: this.#signals,
    })
    if (this.#supervisors.living?.stoppedAt !== Number.POSITIVE_INFINITY) {
      if (!world.run(() => this.#supervisors.living === null, END_MS))
        return ['the service was ended, and its supervisor lives']
      world.run(() => false, 200)
      const left = wrongAfterEnd(seen())
      if (left.length > 0) return left
      this.#supervisors.keepsAlive = true
      this.#supervisors.start()
      const isServing = () => this.#programs.serving.length === 1
      if (!world.run(isServing, START_MS)) return ['after its end the service does not start again']
    }
    world.run(() => false, CALM_MS)
    const begun = world.now
    const last = this.#order('upgrade')
    world.run(() => last.answeredAt !== null, UPGRADE_MS)
    world.run(() => false, CALM_MS)
    const status = this.#order('status')
    world.run(() => status.answeredAt !== null, START_MS)
    const wrong = [
      ...wrongAtLast(seen(), { begun, upgrade: last, status: status.status }),
      ...wrongOfClients(seen()),
      ...wrongOfOrders(seen()),
      ...this.#signals.wrong,
      ...this.#programs.wrong,
      ...this.#fullGroup.wrong,
    ]
    if (wrong.length > 0) return wrong
    const before = world.kernel.resets.length
    const stop = this.#order('stop service', () => callLate(world, PORT))
    world.run(() => this.#supervisors.living === null, END_MS)
    world.run(() => false, 200)
    const resets = world.kernel.resets.slice(before).filter(({ killed }) => !killed)
    return [
      ...(stop.answeredAt === null ? ['the order to end has no answer'] : []),
      ...wrongAfterEnd(seen()),
      ...wrongOfQueues(resets),
      ...this.#signals.wrong,
    ]
  }

  #execute(origin: Origin): SimulatedProcess {
    const p = this.#programs.start(origin)
    if (!this.#counted.has(p.name)) this.#counted.set(p.name, 0)
    this.#fullGroup.started(p)
    return p
  }

  /** Adds the faults that happen at a call. */
  #prepare(act: SupervisedAct): void {
    if (!('call' in act)) return
    const { who } = act
    const call = (this.#named(who)?.calls ?? 0) + act.call
    if (act.what === 'kill') this.#world.add({ what: 'kill', who, call })
    else if (act.what === 'stop') this.#world.add({ what: 'stop', who, call, ms: act.ms })
    else this.#world.add({ what: 'lack', who, call, calls: act.calls, code: act.code, of: LACKS[act.code] })
  }

  #named(who: Who): SimulatedProcess | undefined {
    const all = [...this.#supervisors.all, ...this.#programs.all]
    return all.find(({ p }) => p.name === who)?.p
  }

  #do(act: SupervisedAct): void {
    const world = this.#world
    switch (act.what) {
      case 'kill':
      case 'stop':
      case 'lack':
        return
      case 'dies':
        for (const p of this.#withPart(act.part)) {
          const exit = act.code === null ? undefined : { code: act.code, signal: null }
          world.kill(p, act.code === null ? 'is killed' : `ends with code ${act.code}`, exit)
        }
        return
      case 'hangs':
        for (const p of this.#withPart(act.part)) {
          world.note(p, `is stopped for ${act.ms} ms`)
          world.stop(p, act.ms)
        }
        return
      case 'bad':
        this.#programs.manner = act.manner
        world.after(act.ms, () => {
          this.#programs.manner = null
        })
        return
      case 'health': {
        const newest = this.#programs.living.findLast(({ isHelper }) => !isHelper)
        if (newest === undefined) return
        newest.health = act.health
        world.after(act.ms, () => {
          newest.health = 'good'
        })
        return
      }
      case 'full':
        world.kernel.memory.fill(act.ms)
        return
      case 'missing': {
        const { names } = world.kernel
        const inode = names.get(PROGRAM)
        if (inode === undefined) return
        names.delete(PROGRAM)
        world.after(act.ms, () => names.set(PROGRAM, inode))
        return
      }
      case 'bad file':
        this.#supervisors.isFileBad = true
        world.after(act.ms, () => {
          this.#supervisors.isFileBad = false
        })
        return
      case 'start':
        this.#supervisors.keepsAlive = true
        this.#supervisors.start()
        return
      case 'signal':
        this.#signal(act.signal)
        return
      default:
        this.#order(act.what)
    }
  }

  #order(what: OperatorOrder, done = () => {}): Order {
    const world = this.#world
    const order: Order = { what, at: world.now, answeredAt: null, failed: null, pid: null, status: null }
    this.#orders.push(order)
    const supervisor = this.#supervisors.living
    const answered = () => {
      order.answeredAt = world.now
    }
    const isEnd = what === 'stop service' || what === 'stop soon'
    if (isEnd) {
      this.#supervisors.keepsAlive = false
      if (supervisor !== null) supervisor.mayEndFrom = Math.min(supervisor.mayEndFrom, world.now)
    }
    startOperator(this.#code, world, what, {
      upgraded: pid => {
        order.pid = pid
        answered()
      },
      status: status => {
        order.status = status
        answered()
      },
      done: () => {
        done()
        answered()
        if (isEnd && supervisor !== null) this.#stopped(supervisor)
        if (what === 'stop soon' && supervisor !== null)
          supervisor.killsFrom = Math.min(supervisor.killsFrom, world.now + STOP_SOON_MS)
      },
      failed: code => {
        order.failed = code
        answered()
      },
    })
    return order
  }

  #stopped(supervisor: SupervisorProcess): void {
    supervisor.mayEndFrom = Math.min(supervisor.mayEndFrom, this.#world.now)
    supervisor.stoppedAt = Math.min(supervisor.stoppedAt, this.#world.now)
  }

  #signal(signal: NodeJS.Signals): void {
    const supervisor = this.#supervisors.living
    if (supervisor === null) return
    const { p } = supervisor
    this.#world.note(p, `gets ${signal}`)
    if (signal === 'SIGTERM' || signal === 'SIGINT' || signal === 'SIGQUIT') {
      this.#supervisors.keepsAlive = false
      if (supervisor.stoppedAt < this.#world.now) supervisor.stoppedAgainAt = this.#world.now
      this.#stopped(supervisor)
    }
    this.#world.deliver(p, signal)
  }

  /** The living processes that have a part now: at most one. */
  #withPart(part: Part): SimulatedProcess[] {
    if (part === 'run') return this.#supervisors.all.filter(({ p }) => !p.dead).map(({ p }) => p)
    const mains = this.#programs.living.filter(({ isHelper }) => isHelper === (part === 'helper'))
    const found = part === 'oldest' ? mains.slice(0, 1) : mains.slice(-1)
    for (const program of found) program.isAtFault = true
    return found.map(({ p }) => p)
  }
}
