import { LACKS } from '../faults.js'
import type { Code } from '../globals.js'
import type { Stream } from '../kernel/objects.js'
import type { Origin, SimulatedProcess } from '../process.js'
import type { World } from '../world.js'
import { remains } from './census.js'
import { type History, Lasts, startClient } from './client.js'
import { DAEMON_SCRIPT, Daemons } from './daemon.js'
import { Endings } from './endings.js'
import { FullGroup, type Served } from './full-group.js'
import { Held } from './held.js'
import { callLate, wrongOfQueues } from './late-callers.js'
import { Ledger } from './ledger.js'
import { startOperator } from './operator.js'
import { performActs } from './performed-acts.js'
import { PID_FILE, PidFiles } from './pid-files.js'
import { wrongAfterCut } from './power.js'
import { OnceOnlyWork, PORT, SECOND_PORT, STATE_FILE, startVersion, type Version } from './program.js'
import { secretsInFiles } from './records.js'
import { type Act, PROBATION_MS, type Schedule, type Since, type Who } from './schedule.js'
import { Tickets } from './tickets.js'
import { DRAIN_MS, IDLE_MS, phaseOf, verdict } from './verdict.js'

const CLIENTS = 3
const START_MS = 5_000
/** From the start of B, until everything that was postponed has happened. */
const RUN_MS = 40_000
const LATER_MS = 20_000
/** An order to end is kept to within a second; work under way gets at least half a second. */
const LATE_END_MS = 1_000
const LEAST_END_MS = 500
/** Times of timers are whole milliseconds. */
const EARLY_MS = 5
/** The last daemon has taken over after so long, and the members are back. */
const UPGRADED_MS = 1_000
/** The phases in which a version may be at the end. */
const LAST_PHASES = new Set(['serving', 'standby', 'leaving', 'dead'])
/** A process that an answer names serves after so long, although it may still have to hear that. */
const SOON_MS = 1_000
/** A version that leaves may bar the next one: it still has the listeners, or the state file. */
const BARRED = new Set<string | undefined>(['ERR_FDB_BUSY', 'ERR_FDB_STATE_FILE_IN_USE'])
/** A service manager starts a version again this long after the end of all processes. */
const RESTART_MS = 500
/** The mark of a synced change is written within this time. */
const MARK_MS = 1
/** A listener is closed, and the daemon has heard it, after about so long. */
const CLOSES_MS = 0.3
/** Turns of the event loop in which a process hears that a connection is broken, and of what follows from that. */
const HEARD_TURNS = 10
/** In a run with a state file the power is cut so often, in worlds of their own: after one of so many acknowledgements, or when a file has got its name. */
const CUTS = 4
/** In one run of so many the versions name descriptors. */
const HOLD_EVERY = 4
/** In one run of so many they share TLS ticket keys. */
const TICKETS_EVERY = 4
/** In one run of so many the versions have a pid file, unless they lack something, or their disk fails. */
const PID_FILE_EVERY = 4
/** Acts that are no faults. */
const ORDERS: ReadonlySet<Act['what']> = new Set([
  'close',
  'next',
  'rollback',
  'status',
  'stop service',
  'unlisten',
  'relisten',
])
const CUT_EVERY = 15

export interface Outcome {
  /** The promises that were broken; empty if all were kept. */
  readonly wrong: readonly string[]
  readonly world: World
}

/** Whether an error about a state file tells which file, and the place where it is damaged or that it is none. */
function isPrecise(failure: Error): boolean {
  const { code, details, message } = failure as Error & { code?: string; details?: Record<string, unknown> }
  if (!message.includes(STATE_FILE)) return false
  return (
    code === 'ERR_FDB_STATE_FORMAT' ||
    (code === 'ERR_FDB_STATE_DAMAGED' && typeof details?.offset === 'number')
  )
}

/** One run of a service with one serving process, embedded or with a daemon. */
export class Run {
  readonly #code: Code
  readonly #world: World
  readonly #schedule: Schedule
  readonly #versions = new Map<string, Version>()
  #clients: History[] = []
  readonly #work: OnceOnlyWork
  /** Null with embedded hosting. */
  #daemons: Daemons | null = null
  /** The events from which calls and callbacks count: the next daemon has started, B has begun to serve. */
  readonly #begun = new Set<Since>()
  readonly #counted = new Map<Who, { readonly p: SimulatedProcess; readonly steps: number }>()
  readonly #ledger: Ledger | null
  /** Null if the versions name no descriptors. */
  readonly #held: Held | null
  readonly #tickets: Tickets | null
  /** Null if the versions have no pid file. */
  readonly #pidFiles: PidFiles | null
  readonly #endings: Endings
  readonly #fullGroup: FullGroup
  readonly #wrong: string[] = []
  /** The name of the version that a process starts next. */
  #next = 'B'
  #cuts = CUTS
  /** B begins to serve. */
  #onCommit: () => void = () => {}
  /** When an order to end the service was answered last, and the versions that it had then. */
  #stopped: { readonly at: number; readonly present: readonly Version[] } | null = null
  /** The state file is damaged now. */
  #isDamaged = false
  /** When all processes ended together last, and whether the power was cut. */
  #ended: { readonly at: number; readonly cut: boolean } | null = null

  constructor(code: Code, world: World, schedule: Schedule) {
    this.#code = code
    this.#world = world
    this.#schedule = schedule
    this.#work = new OnceOnlyWork(schedule.times?.workEndsMs)
    this.#ledger = schedule.stateFile ? new Ledger() : null
    this.#held = world.seed % HOLD_EVERY === 1 ? new Held() : null
    this.#tickets = world.seed % TICKETS_EVERY === 2 ? new Tickets() : null
    const mayFail = schedule.acts.some(({ what }) => what === 'lack' || what === 'disk')
    const hasPidFile = world.seed % PID_FILE_EVERY === 3 && !mayFail
    this.#pidFiles = hasPidFile ? new PidFiles(world, () => this.#versions.values()) : null
    const isStopped = schedule.acts.some(({ what }) => what === 'stop service')
    this.#endings = new Endings(world, { versions: () => this.#versions.values(), mayEnd: () => isStopped })
    this.#fullGroup = new FullGroup(world, () => this.#served())
  }

  run(): string[] {
    const world = this.#world
    world.execute = origin => this.#execute(origin)
    if (this.#schedule.hosting === 'daemon') this.#daemons = new Daemons(this.#code, world)
    const A = this.#start('A')
    if (!world.run(() => A.hasServed, START_MS)) return ['the first version does not serve']
    const { callers = 0, moves } = this.#schedule
    const keep = CLIENTS + (moves?.clients ?? 0)
    const lasts = new Lasts(keep + callers)
    lasts.mayLag = () => this.#daemons?.mayLag ?? false
    this.#clients = Array.from({ length: keep }, (_, index) =>
      startClient(this.#code, world, lasts, index, false),
    )
    this.#onCommit = () => {
      if (this.#begun.has('commit')) return
      this.#since('commit', this.#callsSoFar())
      // Until the probation has ended, and a second longer: before that no process accepts there.
      if (this.#schedule.leavesOut) callLate(world, SECOND_PORT, PROBATION_MS + 1_000, 2 * PROBATION_MS)
      for (let index = keep; index < lasts.clients; index++)
        this.#clients.push(startClient(this.#code, world, lasts, index, true))
    }
    if (this.#ledger !== null) {
      this.#ledger.onStartedAgain = () => lasts.startAgain()
      this.#ledger.onAdded = () => this.#mayCut(CUT_EVERY)
      world.kernel.disk.onNamed = () => this.#mayCut(2)
    }
    world.run(() => false, 100 + world.below(100))
    const before = this.#callsSoFar()
    if (this.#schedule.ordered) this.#order('upgrade')
    else this.#start('B')
    for (const act of this.#schedule.acts) if (!('from' in act)) this.#prepare(act, before)
    for (const who of ['A', 'S', 'B'] as const) this.#count(who)
    this.#act()
    const forgotten = this.#forgottenWork()
    this.#wrong.push(...this.#wrongOfEnd())
    this.#cut()
    // A daemon of a later release takes over too, whatever happened before.
    if (this.#hasUpgrade) {
      this.#daemons!.upgrade('V')
      world.run(() => false, UPGRADED_MS)
    }
    const tookOver = this.#startLast()
    world.run(() => false, 5_000)
    if (this.#hasUpgrade) this.#wrong.push(...this.#daemons!.wrong)
    this.#cut()
    const broken = verdict({
      world,
      schedule: this.#schedule,
      versions: this.#versions,
      daemons: this.#daemons?.all ?? [],
      clients: this.#clients,
      tookOver,
      work: this.#work,
      forgotten,
      ledger: this.#ledger,
      ended: this.#ended,
    })
    const resets = this.#schedule.queues ? world.kernel.resets.filter(({ killed }) => !killed) : []
    return [
      ...broken,
      ...wrongOfQueues(resets),
      ...this.#wrong,
      ...this.#endings.wrong,
      ...this.#fullGroup.wrong,
      ...(this.#pidFiles?.wrong ?? []),
      ...this.#lostDescriptors(),
      ...(this.#tickets?.wrong ?? []),
      ...this.#remains(),
      ...secretsInFiles(world),
    ]
  }

  /** Starts a last version, again if the first one must wait for the end of another. Returns whether it serves. */
  #startLast(): boolean {
    const failed = this.#wrong.length
    if (this.#tryLast()) return true
    const failures: readonly NodeJS.ErrnoException[] = this.#versions.get('D')?.p.failures ?? []
    if (!failures.some(({ code }) => BARRED.has(code))) return false
    const isLeaving = () => [...this.#versions.values()].some(version => phaseOf(version) === 'leaving')
    this.#world.run(() => !isLeaving(), DRAIN_MS)
    this.#wrong.splice(failed)
    return this.#tryLast()
  }

  /** Starts a last version, D. Returns whether it serves. */
  #tryLast(): boolean {
    const world = this.#world
    const isServing = [...this.#versions.values()].some(version => phaseOf(version) === 'serving')
    const failed: string[] = []
    this.#next = 'D'
    if (this.#schedule.ordered && isServing) {
      // In a probation the order is refused; a daemon that was replaced has begun it again.
      const isDecided = () => ![...this.#versions.values()].some(version => phaseOf(version) === 'standby')
      world.run(isDecided, 2 * PROBATION_MS)
      this.#order('upgrade', code => failed.push(code))
      const isOver = () => failed.length > 0 || this.#versions.get('D')?.hasServed === true
      if (world.run(isOver, LATER_MS))
        this.#wrong.push(...failed.map(code => `a last upgrade fails: ${code}`))
    } else this.#start('D')
    return world.run(() => this.#versions.get('D')?.hasServed === true, LATER_MS)
  }

  /** A process that is killed takes the descriptors that only it had. */
  #lostDescriptors(): string[] {
    const all = [...this.#versions.values()].map(({ p }) => p).concat(this.#daemons?.all ?? [])
    const isAnyKilled = all.some(({ dead, exit }) => dead && exit.code !== 0)
    return isAnyKilled ? [] : (this.#held?.wrong ?? [])
  }

  #remains(): string[] {
    const phases = [...this.#versions.values()].map(version => [version.p.name, phaseOf(version)] as const)
    // The last version that served waits for the end of earlier ones that drain.
    const drains = phases.some(([, phase]) => phase === 'leaving')
    const unfinished = phases.filter(([, phase]) => !LAST_PHASES.has(phase) && !(phase === 'gone' && drains))
    const orders = [...this.#world.processes.values()].filter(({ name, dead }) => name === 'op' && !dead)
    return [
      ...unfinished.map(([name, phase]) => `${name} remains, ${phase}`),
      ...orders.map(({ startedAt }) => `an order of ${startedAt.toFixed(3)} has no answer`),
      ...this.#left(),
    ]
  }

  #left(): string[] {
    const versions = [...this.#versions.values()].map(({ p }) => p).filter(({ dead }) => !dead)
    const { acts, queues, unservable } = this.#schedule
    // The standby has the listener that was moved.
    const more = acts.some(({ what }) => what === 'relisten') ? 3 : 2
    return remains(this.#world, this.#daemons?.living ?? [], versions, queues || unservable ? more : 0)
  }

  get #hasUpgrade(): boolean {
    return this.#schedule.acts.some(({ what }) => what === 'upgrade')
  }

  /** Cuts the power of another world with this disk, once in so many calls. */
  #mayCut(every: number): void {
    if (this.#cuts === 0 || this.#world.below(every) > 0) return
    this.#cuts--
    this.#world.after(0, () => this.#cut())
  }

  #cut(): void {
    if (this.#ledger === null || this.#isDamaged) return
    const wrong = wrongAfterCut(this.#code, this.#world, this.#ledger)
    if (wrong !== null) this.#wrong.push(wrong)
  }

  /** Returns the versions that serve although an operator has ended the service, and nothing but orders has happened. */
  #wrongOfEnd(): string[] {
    const { acts } = this.#schedule
    if (!acts.every(({ what }) => ORDERS.has(what)) || this.#schedule.late !== undefined) return []
    if (this.#stopped === null || this.#stopped.at + DRAIN_MS > this.#world.now) return []
    const { at, present } = this.#stopped
    const serving = present.filter(version => phaseOf(version) === 'serving')
    return serving.map(
      ({ p }) => `an operator has ended the service at ${at.toFixed(3)}, and ${p.name} serves`,
    )
  }

  /** A version that has served for a while, and in which no once-only work runs; null if there is none. One that is told to end may wait for its clients, or for an older version. */
  #forgottenWork(): string | null {
    const serving = [...this.#versions.values()].find(
      version =>
        phaseOf(version) === 'serving' && !version.isClosing && !this.#stopped?.present.includes(version),
    )
    const since = Math.max(this.#work.lastAt, serving?.p.stoppedUntil ?? 0)
    const isIdle = this.#world.now - since > IDLE_MS
    return serving !== undefined && isIdle ? serving.p.name : null
  }

  /** Starts the next version or daemon for a process that has executed its program. */
  #execute(origin: Origin): SimulatedProcess {
    const isDaemon = origin.script === DAEMON_SCRIPT
    const isLater = this.#next === 'B' && this.#versions.has('B')
    const name = isDaemon ? 'T' : isLater ? `E${this.#versions.size}` : this.#next
    const p = isDaemon ? this.#daemons!.upgrade(name, origin) : this.#start(name, false, origin).p
    if (name === 'B' || name === 'T') this.#count(name)
    this.#fullGroup.started(p)
    return p
  }

  /** Lets an operator order an upgrade. After a while a process must serve that the answer names, unless trouble has come upon it. */
  #order(what: 'upgrade' | 'upgrade daemon' | 'kill stuck', failed: (code: string) => void = () => {}): void {
    const world = this.#world
    const upgraded = (pid: number) =>
      world.after(SOON_MS, () => {
        const p = world.processes.get(pid)
        const serves = p !== undefined && (this.#daemons?.serves(p) || this.#hasServed(p))
        if (serves || p?.dead || (p && p.stoppedUntil > world.now - SOON_MS)) return
        this.#wrong.push(`the answer to "${what}" names process ${pid}, which does not serve`)
      })
    startOperator(this.#code, world, what, { upgraded, failed })
  }

  /** The versions and daemons that serve, or have served. */
  *#served(): Iterable<Served> {
    for (const { p, served } of this.#versions.values())
      if (served.length > 0) yield { p, to: served.at(-1)!.to }
    for (const p of this.#daemons?.all ?? [])
      if (this.#daemons!.serves(p)) yield { p, to: Number.POSITIVE_INFINITY }
  }

  #hasServed(p: SimulatedProcess): boolean {
    return [...this.#versions.values()].some(version => version.p === p && version.hasServed)
  }

  #start(name: string, crashes = false, origin: Partial<Origin> = {}): Version {
    const { hosting } = this.#schedule
    const { moves, unservable = false } = this.#schedule
    const onPhase = (phase: string) => {
      if (name === 'B' && phase === 'beginning') this.#world.after(0, () => this.#onCommit())
    }
    const options = {
      probation: PROBATION_MS,
      hosting,
      crashes,
      loadsMs: name === 'A' ? 0 : (this.#schedule.times?.loadsMs ?? 0),
      unservable: unservable && name === 'B',
      second: this.#schedule.queues === true && (name === 'A' || this.#schedule.leavesOut !== true),
      ...(moves !== undefined && { movesPerSecond: moves.perSecond }),
      onPhase,
      ledger: this.#ledger,
      held: this.#held,
      tickets: this.#tickets,
      pidFile: this.#pidFiles === null ? null : PID_FILE,
    }
    const version = startVersion(this.#code, name, this.#world, this.#work, options, origin)
    this.#versions.set(name, version)
    return version
  }

  #processOf(who: Who): SimulatedProcess | undefined {
    return this.#versions.get(who)?.p ?? this.#daemons?.named(who)
  }

  /** Counts callbacks of a process from now on. */
  #count(who: Who): void {
    const p = this.#processOf(who)
    if (p !== undefined) this.#counted.set(who, { p, steps: p.steps })
  }

  #callsSoFar(): (who: Who) => number {
    const calls = (['A', 'B', 'S', 'T'] as const).map(who => [who, this.#processOf(who)?.calls ?? 0] as const)
    return who => new Map(calls).get(who)!
  }

  /** Adds the faults that happen at a call. */
  #prepare(act: Act, before: (who: Who) => number): void {
    if (!('call' in act)) return
    const { who, what } = act
    const call = before(who) + act.call
    if (what === 'kill') this.#world.add({ what, who, call })
    else if (what === 'stop') this.#world.add({ what, who, call, ms: act.ms! })
    else this.#world.add({ what, who, call, calls: act.calls!, code: act.code!, of: LACKS[act.code!] })
  }

  /** Runs the world, and does what is scheduled when its time has come. */
  #act(): void {
    performActs(this.#world, this.#schedule.acts, {
      ms: RUN_MS,
      isReached: ({ after, steps, from: since }) => {
        if (since !== undefined && !this.#begun.has(since)) return false
        const from = this.#counted.get(after)
        return from !== undefined && (from.p.dead || from.p.steps >= from.steps + steps)
      },
      perform: act => this.#do(act),
    })
  }

  #do(act: Act): void {
    const world = this.#world
    const { who = 'A' } = act as { who?: Who }
    const version = this.#versions.get(who) ?? this.#versions.get('A')!
    const p = this.#processOf(who)
    switch (act.what) {
      case 'dies':
        if (p !== undefined) world.kill(p, 'is killed')
        return
      case 'upgrade':
        this.#upgradeDaemon(act.again === true)
        return
      case 'close daemon':
        this.#daemons!.close(who)
        return
      case 'crasher':
        this.#start('C', true)
        return
      case 'unlisten':
      case 'relisten':
        if (p === undefined || p.dead || !version.hasServed) return
        world.note(p, `calls ${act.what}()`)
        callLate(world, SECOND_PORT, CLOSES_MS)
        // Until the end of a probation the standby has the listener too.
        callLate(world, SECOND_PORT, PROBATION_MS, PROBATION_MS)
        p.enter()
        p.run(() => {
          if (act.what === 'unlisten') version.unlisten()
          else version.relisten().catch(error => p.fail(error))
        })
        return
      case 'close':
        if (p === undefined || p.dead || version.member === null) return
        world.note(p, `calls close(${act.timeout ?? ''})`)
        if (this.#schedule.queues) callLate(world, PORT)
        version.isClosing = true
        if (act.timeout !== undefined) {
          version.cutsFrom = world.now + act.timeout - EARLY_MS
          version.endsBy = world.now + Math.max(LEAST_END_MS, act.timeout) + LATE_END_MS
          // With a timeout the handoff does not wait for work that takes long to end.
          p.endsWorkFrom = world.now + act.timeout / 2
        }
        p.enter()
        p.run(() => {
          version
            .member!.close(act.timeout === undefined ? {} : { timeout: act.timeout })
            .catch(error => p.fail(error))
        })
        return
      case 'next':
        this.#order('upgrade')
        return
      case 'kill stuck':
        this.#order('kill stuck')
        return
      case 'full':
        world.kernel.memory.fill(act.ms)
        return
      case 'rollback':
      case 'stop service':
      case 'status':
        startOperator(this.#code, world, act.what, {
          done: () => {
            if (act.what !== 'stop service') return
            const present = [...this.#versions.values()].filter(({ member }) => member !== null)
            this.#stopped = { at: world.now, present }
            if (this.#schedule.queues) callLate(world, PORT)
          },
        })
        return
      case 'break':
        this.#break(act.which)
        return
      case 'disk':
        world.kernel.disk.trouble = { ...act, until: world.now + act.ms }
        return
      case 'damage':
        this.#damage()
        return
      case 'end all':
      case 'cut':
        this.#endAll(act.what === 'cut')
        this.#startLater()
    }
  }

  /** Starts the next daemon, with the faults that count from there. */
  #upgradeDaemon(again: boolean): void {
    const before = this.#callsSoFar()
    if (again) this.#daemons!.upgrade('U')
    else if (this.#schedule.ordered) this.#order('upgrade daemon')
    else this.#daemons!.upgrade('T')
    if (again) return
    for (const who of ['A', 'B', 'S', 'T'] as const) this.#count(who)
    this.#since('upgrade', who => (who === 'T' ? 0 : before(who)))
  }

  /** Adds the faults whose calls count from this event. */
  #since(event: Since, before: (who: Who) => number): void {
    this.#begun.add(event)
    for (const act of this.#schedule.acts) if ('from' in act && act.from === event) this.#prepare(act, before)
  }

  /** Ends all processes of the machine. */
  #endAll(cut: boolean): void {
    const world = this.#world
    this.#ended = { at: world.now, cut }
    for (const { p } of this.#versions.values()) world.kill(p, cut ? 'loses its power' : 'is killed')
    for (const p of this.#daemons?.living ?? []) world.kill(p, cut ? 'loses its power' : 'is killed')
    if (cut) world.kernel.restart()
  }

  #startLater(): void {
    this.#world.after(RESTART_MS, () => this.#start(`R${this.#versions.size}`))
  }

  /** Damages the state file while no process runs. A version that starts then refuses the file, and leaves it as it is, or has lost nothing. */
  #damage(): void {
    const world = this.#world
    const { kernel } = world
    this.#endAll(false)
    const file = kernel.names.get(STATE_FILE)
    if (file === undefined || file.size === 0) {
      this.#startLater()
      return
    }
    const at = world.below(file.size)
    const bit = 1 << world.below(8)
    kernel.disk.flip(file, at, bit)
    // The mark of a sync, which tells a damaged record from an incomplete one, is written after the acknowledgement.
    this.#ledger?.forgetSince(world.now - MARK_MS)
    const damaged = Buffer.from(file.data.subarray(0, file.size))
    this.#isDamaged = true
    world.after(RESTART_MS, () => {
      const X = this.#start('X')
      X.mayRefuse = true
      world.note(X.p, `the state file is damaged at ${at} of ${file.size}`)
      world.after(START_MS, () => {
        this.#isDamaged = false
        if (!X.p.dead) return
        const present = kernel.names.get(STATE_FILE)
        if (present !== file || !file.data.subarray(0, file.size).equals(damaged))
          this.#wrong.push('a damaged state file was changed')
        if (!X.p.failures.some(isPrecise))
          this.#wrong.push('a damaged state file was refused without its place')
        kernel.disk.flip(file, at, bit)
        this.#startLater()
      })
    })
  }

  /** Breaks one of the connections between processes of the service. */
  #break(which: number): void {
    const processes = [...this.#versions.values()].map(({ p }) => p)
    processes.push(...(this.#daemons?.living ?? []))
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
    // Both processes hear of it within a few turns.
    for (const { process } of [end.peerIs, end.peer!.peerIs]) {
      process.stoppedIn = process.turns + HEARD_TURNS
      process.endsWorkFrom = this.#world.now
    }
    this.#world.kernel.breakConnection(end)
  }
}
