import { constants } from 'node:os'
import type { BindOptions } from '../../src/kernel/native.js'
import type { Fault } from './faults.js'
import { bury } from './kernel/families.js'
import { Kernel } from './kernel/kernel.js'
import { fail } from './kernel/objects.js'
import type { Tap } from './points/tap.js'
import { ALONE, DEAD, type Exit, type Origin, SimulatedProcess } from './process.js'
import { type Random, randomOf } from './random.js'

/** The process that runs now, of any world. */
export const at: { p: SimulatedProcess } = { p: null as never }

export interface WorldOptions {
  readonly seed: number
  readonly faults?: readonly Fault[]
  /** Keeps the story: what each process logs and does. */
  readonly trace?: boolean
  /** The share of reads and writes that move only a part. Default 0.05. */
  readonly partial?: number
  /** The share of timers that fire late, and how much at most, in milliseconds. */
  readonly late?: { readonly share: number; readonly ms: number }
  /** After so many callbacks the run cannot end. Default 400,000. */
  readonly mostSteps?: number
}

const MOST_STEPS = 400_000
/** A call after its process's death is a loop that never ends. */
const MOST_DEAD_CALLS = 10_000

/** Signals that do nothing without a handler; Node starts its inspector at SIGUSR1. */
const IGNORED: ReadonlySet<string> = new Set(['SIGCHLD', 'SIGCONT', 'SIGURG', 'SIGUSR1', 'SIGWINCH'])

function nameOf(signal: NodeJS.Signals | number): NodeJS.Signals {
  const found = Object.entries(constants.signals).find(
    ([name, number]) => name === signal || number === signal,
  )
  return found![0] as NodeJS.Signals
}

/** A run that cannot end: the seed shows it again. */
export class Livelock extends Error {}

/** Processes, their kernel, the clock and the scheduler. A step is one callback of one process; the seed chooses the process. The clock moves when none can run. */
export class World {
  readonly seed: number
  readonly random: Random
  /** Random bytes for the processes. */
  readonly entropy: Random
  readonly kernel: Kernel
  readonly processes = new Map<number, SimulatedProcess>()
  readonly story: string[] = []
  /** The keys and nonces of all records that were sealed. */
  readonly nonces = new Set<string>()
  /** The secrets of connections that have moved. */
  readonly secrets: Buffer[] = []
  /** Plays a fault at one chosen call; null in a run with random ones. */
  tap: Tap | null = null
  /** Milliseconds. */
  now = 1_000
  steps = 0
  calls = 0
  readonly #options: WorldOptions
  #faults: Fault[]
  #alarms: { readonly at: number; readonly act: () => void }[] = []
  readonly #onDeath: ((p: SimulatedProcess) => void)[] = []
  #lastPid = 100
  /** Pids of children that were waited for: other processes get them soon. */
  readonly #freePids: number[] = []

  constructor(options: WorldOptions) {
    this.#options = options
    this.#faults = [...(options.faults ?? [])]
    this.seed = options.seed
    this.random = randomOf(options.seed)
    this.entropy = randomOf(options.seed + 1)
    this.kernel = new Kernel(this)
  }

  /** The time of `Date`, in milliseconds. */
  get wallClock(): number {
    return 1_700_000_000_000 + Math.floor(this.now)
  }

  get traces(): boolean {
    return this.#options.trace === true
  }

  below(n: number): number {
    return Math.floor(this.random() * n)
  }

  /** How many of `most` bytes a call moves; `name`: that of the call. */
  part(most: number, name: string): number {
    if (this.tap !== null) return this.tap.part(most, name)
    const { partial = 0.05 } = this.#options
    return most > 1 && this.random() < partial ? 1 + this.below(most) : most
  }

  /** By how many milliseconds a timer fires late. */
  lateness(): number {
    const { late } = this.#options
    return late !== undefined && this.random() < late.share ? this.random() * late.ms : 0
  }

  shuffle(list: unknown[]): void {
    for (let i = list.length - 1; i > 0; i--) {
      const j = this.below(i + 1)
      ;[list[i], list[j]] = [list[j], list[i]]
    }
  }

  note(p: SimulatedProcess, text: string): void {
    if (this.traces) this.story.push(`${this.now.toFixed(3).padStart(10)} ${p.name.padEnd(2)} ${text}`)
  }

  add(...faults: Fault[]): void {
    this.#faults.push(...faults)
  }

  /** From now on no fault happens at a call. */
  endFaults(): void {
    this.#faults = []
    this.tap?.end()
  }

  /** Starts a process with `main`, which gets the process. */
  start(
    name: string,
    main: (p: SimulatedProcess) => Promise<unknown>,
    given: Partial<Origin> = {},
  ): SimulatedProcess {
    const origin = { ...ALONE, ...given }
    const pid = this.#freePids.length > 0 && this.below(2) === 0 ? this.#freePids.shift()! : this.#lastPid++
    const p = new SimulatedProcess(this, name, pid, { ...origin, env: { ...origin.env } })
    this.processes.set(p.pid, p)
    const begin = () => {
      main(p).catch(error => p.fail(error))
    }
    const lateMs = origin.parent === null ? 0 : (this.tap?.takeLateness() ?? 0)
    if (origin.parent === null) {
      p.enter()
      p.run(begin)
    } else if (lateMs > 0) this.after(lateMs, () => p.complete(begin))
    else p.complete(begin)
    return p
  }

  /** Called by a process when it starts to run. */
  running(p: SimulatedProcess): void {
    at.p = p
  }

  /** Before each call of a process to its kernel. Here the process can die, stop, or lack something. `first`, `fds`: its first argument, and the descriptors that it sends. */
  enter(p: SimulatedProcess, name: string, first: unknown = null, fds: unknown = null): void {
    if (p.dead) {
      if (++p.deadCalls > MOST_DEAD_CALLS)
        throw new Livelock(`the dead process ${p.name} goes on: ${new Error(name).stack}`)
      throw DEAD
    }
    this.calls++
    p.calls++
    this.tap?.enter(p, name, first, fds)
    for (const fault of this.#faults) {
      if (fault.who !== p.name || p.calls < fault.call) continue
      if (fault.what === 'lack') {
        if (p.calls < fault.call + fault.calls && this.#isShort(fault, name, first)) {
          this.note(p, `${name}() fails: ${fault.code}`)
          fail(fault.code, name)
        }
      } else if (p.calls === fault.call) this.#strike(p, fault, name)
    }
  }

  /** A full file system has room for a file that is there, and for a socket without a path. */
  #isShort({ code, of }: Extract<Fault, { what: 'lack' }>, name: string, argument: unknown): boolean {
    if (!of.includes(name)) return false
    if (code !== 'ENOSPC') return true
    if (name === 'openLockFile') return !this.kernel.names.has(argument as string)
    return name !== 'bindSocket' || (argument as BindOptions).kind === 'unix'
  }

  #strike(p: SimulatedProcess, fault: Exclude<Fault, { what: 'lack' }>, name: string): void {
    this.#faults = this.#faults.filter(each => each !== fault)
    if (fault.what === 'stop') {
      this.note(p, `stops for ${fault.ms} ms after its call ${p.calls}, ${name}()`)
      this.stop(p, fault.ms)
      return
    }
    this.kill(p, `dies before its call ${p.calls}, ${name}()`)
    throw DEAD
  }

  /** Lets {@link run} look at this time whether it is done, although no process has anything to do then. */
  wakeAt(time: number): void {
    this.#alarms.push({ at: time, act: () => {} })
  }

  /** Calls `act`, of no process, after a time. */
  after(ms: number, act: () => void): void {
    this.#alarms.push({ at: this.now + ms, act })
  }

  /** Starts the program that a process has executed. */
  execute: (origin: Origin) => SimulatedProcess = () => fail('ENOENT', 'execve')

  /** Called before a process sends a signal to another one by a system call. */
  onSignal: (from: SimulatedProcess, to: SimulatedProcess, signal: NodeJS.Signals) => void = () => {}

  /** The parent has waited for an ended child: its pid is free. */
  reap(child: SimulatedProcess): void {
    child.isReaped = true
    this.processes.delete(child.pid)
    this.#freePids.push(child.pid)
  }

  watchDeaths(onDeath: (p: SimulatedProcess) => void): void {
    this.#onDeath.push(onDeath)
  }

  /** SIGSTOP, and SIGCONT after a while; the callback that runs now ends first. */
  stop(p: SimulatedProcess, ms: number): void {
    p.stoppedUntil = Math.max(p.stoppedUntil, this.now + ms)
    p.stoppedIn = p.turns
  }

  kill(p: SimulatedProcess, why: string, exit: Exit = { code: null, signal: 'SIGKILL' }): void {
    if (p.dead) return
    this.note(p, why)
    p.exit = exit
    p.die()
    bury(p)
    // The pidfds of dead processes are readable now.
    for (const other of this.processes.values()) other.mayRun()
    for (const onDeath of this.#onDeath) onDeath(p)
  }

  /** Ends a process as its own `process.exit()` does: its listeners run first. */
  exit(p: SimulatedProcess, why: string, code = 0): void {
    if (p.dead) return
    p.enter()
    try {
      p.events.emit('exit', code)
    } catch (error) {
      p.fail(error)
    }
    this.kill(p, why, { code, signal: null })
  }

  /** As in Node, the process ends when nothing keeps it alive. */
  exitWhenIdle(p: SimulatedProcess, why: string, code = 0): void {
    p.onIdle = () => this.exit(p, why, code)
    p.setImmediate(() => {})
  }

  /** The main function of a process has failed. */
  exitByError(p: SimulatedProcess, error: unknown): void {
    p.fail(error)
    this.kill(p, 'ends with an error', { code: 1, signal: null })
  }

  /** `kill()`; a negative pid is that of a process group. */
  signal(pid: number, signal: NodeJS.Signals | number): true {
    const all = [...this.processes.values()].filter(({ dead, isZombie }) => !dead || isZombie)
    const targets = all.filter(p => (pid < 0 ? p.group === -pid : p.pid === pid))
    if (targets.length === 0) fail('ESRCH', 'kill')
    for (const target of targets) this.send(target, signal)
    return true
  }

  /** The running process sends a signal by a system call. */
  send(target: SimulatedProcess, signal: NodeJS.Signals | number): void {
    if (target.dead || signal === 0) return
    this.onSignal(at.p, target, nameOf(signal))
    this.deliver(target, signal)
  }

  /** Delivers a signal to a living process: a handler of the process runs as one of its next callbacks. */
  deliver(target: SimulatedProcess, signal: NodeJS.Signals | number): void {
    if (target.dead || signal === 0) return
    const name = nameOf(signal)
    if (target.blocksSignals && name !== 'SIGKILL' && name !== 'SIGSTOP') return
    if (name === 'SIGCONT') target.stoppedUntil = Math.min(target.stoppedUntil, this.now)
    if (name === 'SIGSTOP') this.stop(target, Number.POSITIVE_INFINITY)
    else if (name === 'SIGKILL') this.kill(target, `is killed by ${at.p.name}`)
    else if (target.events.listenerCount(name) > 0)
      target.complete(() => void target.events.emit(name, name, constants.signals[name]))
    else if (!IGNORED.has(name)) {
      const end = () => this.kill(target, `is ended by ${name} of ${at.p.name}`, { code: null, signal: name })
      // A stopped process ends when it continues.
      if (target.stoppedUntil > this.now) target.complete(end)
      else end()
    }
  }

  /** Runs until `done()`, at most for `limitMs` of simulated time. Returns `done()`. */
  run(done: () => boolean, limitMs: number): boolean {
    const until = this.now + limitMs
    const ready: SimulatedProcess[] = []
    for (;;) {
      if (done()) return true
      ready.length = 0
      let next = Number.POSITIVE_INFINITY
      const due = this.#alarms.filter(({ at }) => at <= this.now)
      this.#alarms = this.#alarms.filter(({ at }) => at > this.now)
      for (const { act } of due) act()
      for (const { at } of this.#alarms) if (at < next) next = at
      for (const p of this.processes.values()) {
        if (p.dead) continue
        const time = Math.max(p.stoppedUntil, p.nextAt())
        if (time <= this.now) ready.push(p)
        else if (time < next) next = time
      }
      if (ready.length > 0) {
        this.now += this.random() * 0.02
        if (++this.steps > (this.#options.mostSteps ?? MOST_STEPS))
          throw new Livelock(`no end after ${this.steps} callbacks, at ${this.now} ms`)
        ready[ready.length === 1 ? 0 : this.below(ready.length)]!.step()
      } else if (next > until) {
        this.now = until
        return done()
      } else this.now = next
    }
  }
}
