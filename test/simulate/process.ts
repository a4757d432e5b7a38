import { EventEmitter } from 'node:events'
import v8 from 'node:v8'
import type { Delays } from './kernel/disk.js'
import type { Inode, Open, SimulatedPoll } from './kernel/objects.js'
import { Slots } from './slots.js'
import type { World } from './world.js'

/** Thrown by each call of a dead process. Code that catches it can do nothing more: its next call throws too. */
export const DEAD = Object.assign(new Error('this simulated process is dead'), { code: 'DEAD' })

type Act = () => void

export interface SimulatedTimer {
  readonly id: number
  at: number
  /** Interval in milliseconds, or null for a timer that fires once. */
  readonly every: number | null
  readonly act: Act
  /** Started by code of `src`, not by the program. */
  ofSource: boolean
  ref(): SimulatedTimer
  unref(): SimulatedTimer
  hasRef(): boolean
  [Symbol.toPrimitive](): number
}

export interface SimulatedImmediate {
  act: Act | null
  ref(): SimulatedImmediate
  unref(): SimulatedImmediate
}

v8.setFlagsFromString('--allow-natives-syntax')
/** Runs all microtasks now, as Node does after each callback. The stack must not be inside a microtask. */
const runMicrotasks = new Function('%PerformMicrotaskCheckpoint()') as () => void

/** How a process is started; by default by the service manager. */
export interface Origin {
  /** The script that Node runs. */
  readonly script: string
  readonly parent: SimulatedProcess | null
  readonly env: NodeJS.ProcessEnv
  /** The process leads a session of its own. */
  readonly leads: boolean
  /** Null if the addon has not started the process. */
  readonly given: Given | null
}

/** The start of a process by the addon. The parent waits for the process: until then an ended process is a zombie, and keeps its pid. */
export interface Given {
  /** The descriptors from 3 on. */
  readonly fds: readonly Open[]
  /** The signal that it gets when its parent ends; 0: none. */
  readonly deathSignal: number
  /** The variable that has its own pid; null: none. */
  readonly pidVariable: string | null
}

export const ALONE: Origin = {
  script: '/app.js',
  parent: null,
  env: { NODE_ENV: 'production' },
  leads: true,
  given: null,
}
/** The first descriptor after the standard ones. */
const FIRST_FD = 3

/** How a process has ended. */
export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** Phases of a turn of the event loop; the fourth one is that of immediates. A process without work waits in the second: what wakes it runs before its timers. */
const TIMERS = 0
const POLLS = 1
const CHECKS = 2
const PHASES = 4

/** A watch of pauses, which the addon makes of a uv_check. */
export interface PauseWatch {
  readonly ms: number
  readonly callback: (pausedMs: number) => void
}

/** A process with libuv's event loop: due timers, then polls that are ready, then watches of pauses, then immediates. */
export class SimulatedProcess {
  readonly world: World
  readonly name: string
  readonly pid: number
  readonly startedAt: number
  readonly fds = new Map<number, Open>()
  readonly polls = new Set<SimulatedPoll>()
  readonly timers = new Map<number, SimulatedTimer>()
  readonly pauses = new Set<PauseWatch>()
  readonly failures: Error[] = []
  readonly globals: Record<PropertyKey, unknown> = {}
  readonly events = new EventEmitter()
  readonly env: NodeJS.ProcessEnv
  readonly script: string
  /** The environment of its start, as others read it. */
  readonly begunWith: Readonly<NodeJS.ProcessEnv>
  /** Null stands for init. */
  parent: SimulatedProcess | null
  /** The pid of the leader of its session. */
  readonly session: number
  /** The pid of the leader of its process group. */
  readonly group: number
  readonly given: Given | null
  /** Orphaned descendants become children of this process (PR_SET_CHILD_SUBREAPER). */
  adopts = false
  /** Whether signals wait, except SIGKILL and SIGSTOP. */
  blocksSignals = false
  /** The parent has waited for this process. */
  isReaped = false
  exit: Exit = { code: null, signal: 'SIGKILL' }
  /** Tells the parent. */
  onEnded: () => void = () => {}
  dead = false
  diedAt = Number.POSITIVE_INFINITY
  /** Calls to the kernel, callbacks, and turns of the event loop so far. */
  calls = 0
  steps = 0
  turns = 0
  /** Calls after its death: code that catches everything in a loop is stopped. */
  deadCalls = 0
  stoppedUntil = 0
  /** The turn in which it was stopped last. */
  stoppedIn = Number.NEGATIVE_INFINITY
  /** Another process may serve from now on, while the once-only work of this one still ends. */
  endsWorkFrom = Number.NEGATIVE_INFINITY
  #lastMemoryFiles: ReadonlySet<Inode> | null = null
  readonly #slots = new Slots()
  #ticks: Act[] = []
  #immediates: SimulatedImmediate[] = []
  /** Callbacks of calls that other threads have made. */
  #completed: Act[] = []
  #queue: (() => Act | null)[] = []
  #phase = TIMERS
  /** When the last turn ended. */
  #turnedAt = 0
  #lastTimer = 0
  /** Calls that other threads make. */
  #asides = 0
  /** Child processes that keep this one alive. */
  children = 0
  /** Called once, when the callback that runs has ended. */
  afterCallback: Act | null = null
  /** Called when nothing keeps the process alive. */
  onIdle: () => void = () => {}
  #changed = true
  #nextAt = 0

  constructor(world: World, name: string, pid: number, { script, parent, env, leads, given }: Origin) {
    this.world = world
    this.name = name
    this.pid = pid
    this.script = script
    this.parent = parent
    this.env = env
    if (given !== null && given.pidVariable !== null) env[given.pidVariable] = `${pid}`
    this.begunWith = { ...env }
    this.given = given
    this.session = leads || parent === null ? pid : parent.session
    this.group = leads || parent === null || given !== null ? pid : parent.group
    for (const [at, open] of (given?.fds ?? []).entries())
      this.fds.set(FIRST_FD + at, world.kernel.hold(open))
    this.startedAt = world.now
    this.#turnedAt = world.now
  }

  /** Whether the process has ended, and its parent has not waited for it yet. */
  get isZombie(): boolean {
    return this.dead && this.given !== null && !this.isReaped
  }

  /** Lets the scheduler look again at when this process can run. */
  mayRun(): void {
    this.#changed = true
  }

  /** The time at which this process can run next. */
  nextAt(): number {
    if (this.#queue.length > 0 || this.#immediates.length > 0 || this.#completed.length > 0) return 0
    if (!this.#changed) return this.#nextAt
    this.#changed = false
    this.#nextAt = Number.POSITIVE_INFINITY
    for (const { at } of this.timers.values()) if (at < this.#nextAt) this.#nextAt = at
    const { kernel } = this.world
    for (const { open, events } of this.polls)
      if (events !== 0 && kernel.ready(open, events) !== 0) this.#nextAt = 0
    return this.#nextAt
  }

  /** Whether the event loop has nothing to wait for: Node ends such a process. */
  get isIdle(): boolean {
    const hasWork = this.#queue.length > 0 || this.#immediates.length > 0 || this.#completed.length > 0
    if (hasWork || this.#asides > 0 || this.children > 0) return false
    for (const timer of this.timers.values()) if (timer.hasRef()) return false
    for (const { events, isHeld } of this.polls) if (events !== 0 && isHeld) return false
    return true
  }

  /** Makes this the process that runs: its values of the module-level variables of `src` are in place. */
  enter(): void {
    // The first values of some variables depend on the process.
    this.world.running(this)
    try {
      this.#slots.exchange()
    } catch (error) {
      // The first values call the kernel: the process can die there.
      if (error !== DEAD) throw error
    }
  }

  /** Runs the next callback of the event loop. */
  step(): void {
    this.steps++
    this.enter()
    if (this.dead) return
    this.#changed = true
    for (let phases = 0; phases <= PHASES; ) {
      const next = this.#queue.shift()
      if (next !== undefined) {
        const act = next()
        if (act === null) continue
        this.run(act)
        if (this.#queue.length === 0) this.#waitInPolls()
        if (this.isIdle) this.onIdle()
        return
      }
      phases++
      this.#fill()
    }
    this.#waitInPolls()
  }

  /** Goes on to the next phase, and queues its callbacks. */
  #fill(): void {
    if (this.#phase === TIMERS) this.#queueTimers()
    else if (this.#phase === POLLS) this.#queuePolls()
    else if (this.#phase === CHECKS) this.#queueChecks()
    else this.#queue = this.#immediates.splice(0).map(immediate => () => immediate.act)
    this.#phase = (this.#phase + 1) % PHASES
  }

  /** If there is nothing to do, the turn ends, and the process waits. */
  #waitInPolls(): void {
    if (this.#immediates.length > 0 || this.nextAt() <= this.world.now) return
    this.#queueChecks()
    this.#phase = POLLS
  }

  #queueTimers(): void {
    this.turns++
    const due = [...this.timers.values()].filter(({ at }) => at <= this.world.now)
    due.sort((a, b) => a.at - b.at)
    this.#queue = due.map(timer => () => this.#expire(timer))
  }

  #queuePolls(): void {
    const { kernel } = this.world
    this.#queue = [...this.polls]
      .filter(({ events }) => events !== 0)
      .map(poll => () => {
        const ready = this.polls.has(poll) ? kernel.ready(poll.open, poll.events) : 0
        return ready === 0 ? null : () => poll.callback(ready, null)
      })
    this.#queue.push(...this.#completed.splice(0).map(act => () => act))
    this.world.shuffle(this.#queue)
  }

  #queueChecks(): void {
    const pausedMs = this.world.now - this.#turnedAt
    this.#turnedAt = this.world.now
    this.#queue = [...this.pauses]
      .filter(({ ms }) => pausedMs > ms)
      .map(watch => () => (this.pauses.has(watch) ? () => watch.callback(pausedMs) : null))
  }

  #expire(timer: SimulatedTimer): Act | null {
    if (this.timers.get(timer.id) !== timer) return null
    if (timer.every === null) this.timers.delete(timer.id)
    else timer.at = this.world.now + timer.every
    return timer.act
  }

  /** Runs a callback, and all ticks and microtasks that follow from it. */
  run(act: Act): void {
    this.#attempt(act)
    do {
      for (const tick of this.#ticks.splice(0)) this.#attempt(tick)
      runMicrotasks()
    } while (this.#ticks.length > 0)
    const { afterCallback } = this
    if (afterCallback === null) return
    this.afterCallback = null
    afterCallback()
  }

  #attempt(act: Act): void {
    try {
      act()
    } catch (error) {
      this.fail(error)
    }
  }

  /** An error that no code of the process has caught. */
  fail(error: unknown): void {
    if (error === DEAD || this.dead) return
    const failure = error instanceof Error ? error : new Error(String(error))
    this.failures.push(failure)
    this.world.note(this, `fails: ${failure.stack}`)
  }

  tick(act: Act): void {
    if (!this.dead) this.#ticks.push(act)
  }

  /** Lets another thread make a call after a while, which returns the callback for this process. A stopped process begins no call, and ends one that it has begun. */
  aside(call: () => Act, { begin, end }: Delays): void {
    const { world } = this
    this.#asides++
    const make = () => {
      if (this.dead) return
      const stoppedMs = this.stoppedUntil - world.now
      if (stoppedMs > 0 && world.below(2) === 0) {
        world.after(stoppedMs + begin, make)
        return
      }
      world.running(this)
      const heard = call()
      world.after(end, () => {
        this.#asides--
        this.complete(heard)
      })
    }
    world.after(begin, make)
  }

  /** Runs a callback among the polls: a signal, the end of a child. */
  complete(act: Act): void {
    if (this.dead) return
    this.#completed.push(act)
    this.mayRun()
  }

  setImmediate(act: Act): SimulatedImmediate {
    const immediate: SimulatedImmediate = { act, ref: () => immediate, unref: () => immediate }
    if (!this.dead) this.#immediates.push(immediate)
    return immediate
  }

  setTimer(act: Act, ms: number, repeats = false): SimulatedTimer {
    const delay = Math.max(1, Math.trunc(ms) || 1)
    const id = ++this.#lastTimer
    let isHeld = true
    const hold = (held: boolean) => {
      isHeld = held
      return timer
    }
    const timer: SimulatedTimer = {
      id,
      at: this.world.now + delay + this.world.lateness(),
      every: repeats ? delay : null,
      act,
      ofSource: false,
      ref: () => hold(true),
      unref: () => hold(false),
      hasRef: () => isHeld,
      [Symbol.toPrimitive]: () => id,
    }
    if (!this.dead) this.timers.set(id, timer)
    this.#changed = true
    return timer
  }

  clearTimer(timer: SimulatedTimer | number | null | undefined): void {
    this.timers.delete(typeof timer === 'number' ? timer : (timer?.id ?? 0))
  }

  /** Returns the answer to a question that an observer asks code of this process, which may go on in microtasks. */
  ask<T>(question: () => T): T {
    this.enter()
    try {
      return question()
    } finally {
      this.run(() => {})
    }
  }

  /** The memory files that the process has, or had when it ended. */
  get memoryFiles(): ReadonlySet<Inode> {
    return this.#lastMemoryFiles ?? memoryFilesOf(this)
  }

  /** Ends the process at once, as SIGKILL does. */
  die(): void {
    this.#lastMemoryFiles = memoryFilesOf(this)
    this.dead = true
    this.diedAt = this.world.now
    this.timers.clear()
    this.#queue = []
    this.#immediates = []
    this.#completed = []
    this.#ticks = []
    for (const poll of this.polls) poll.open.polls.delete(poll)
    this.polls.clear()
    const killed = this.exit.code !== 0
    for (const open of this.fds.values()) this.world.kernel.drop(open, killed)
    this.fds.clear()
    this.onEnded()
  }
}

function memoryFilesOf({ fds }: SimulatedProcess): ReadonlySet<Inode> {
  const inodes = [...fds.values()].map(({ inode }) => inode)
  return new Set(inodes.filter(inode => inode?.sealable) as Inode[])
}
