import { fail } from '../kernel/objects.js'
import { DEAD, type SimulatedProcess } from '../process.js'
import { CAN_BE_LATE, ERRNOS_OF_FDS } from './errnos.js'
import { LATE_MS, type Point, pointText } from './point.js'

/** The name of a timer among the calls of a process. */
export const TIMER = 'setTimeout'
const STOP_MS = 3_000
export const MESSAGES: ReadonlySet<string> = new Set(['sendMessage', 'receiveMessage'])
const HEARD_TURNS = 10
/** More failing calls of another thread than these come from a loop without a pause. */
const MOST_FAILURES = 1_000
const NEEDS_FDS: ReadonlySet<string> = new Set(ERRNOS_OF_FDS)

/** A call of a process, as the run without a trouble makes it. */
export interface Call {
  readonly process: string
  readonly n: number
  readonly name: string
  /** The number of its callback. */
  readonly step: number
  /** The call sends or gets descriptors. */
  hasFds: boolean
  /** The call opens a pidfd of its own process, which lives. */
  readonly isOfItself: boolean
}

/** Counts the calls of each process while a scenario lets trouble happen, and plays the trouble of one point. */
export class Tap {
  readonly #point: Point | null
  #counts = new Map<string, number>()
  /** The process whose call has the trouble. */
  #process: string | undefined
  /** Whether a call is the one with the trouble; `ofName`: its number among those of its name. */
  #isHere: (n: number, name: string, ofName: number) => boolean
  /** The number of the call that has had the trouble, among those of its name. */
  #ofName = 0
  /** Called for each call. */
  onCall: ((call: Call) => void) | null = null
  /** Called when the trouble happens. */
  onPlayed: () => void = () => {}
  active = false
  /** The time of the world from which calls count. */
  activeSince = Number.POSITIVE_INFINITY
  /** The errors that processes have logged since. */
  readonly logged: Error[] = []
  #last: Call | null = null
  /** The name of the call that moves half of its bytes, or comes late, or loses its descriptors. */
  #half: string | null = null
  #isLate = false
  #isTruncated = false
  #always: string | null = null
  /** The name of the call at which the trouble has happened; null before. */
  played: string | null = null

  #failures = 0

  constructor(point: Point | null) {
    this.#point = point
    this.#process = point?.process
    this.#isHere = n => n === point?.n
  }

  /** A process has logged a warning or an error. */
  hear(facts: object): void {
    if (this.played !== null) this.logged.push(...Object.values(facts).filter(each => each instanceof Error))
  }

  /** Whether a process repeats a failing call without a pause. Only the library makes calls of other threads. */
  get spins(): boolean {
    return this.#failures > MOST_FAILURES
  }

  /** Calls count from now on. */
  begin(now: number): void {
    this.active = true
    this.activeSince = now
  }

  /** Counts calls from zero: the trouble comes again, at the same call of `process`. */
  again(process: string): void {
    const [name, ofName] = [this.played, this.#ofName]
    this.#counts = new Map()
    this.#process = process
    this.#isHere = (_, ...call) => call[0] === name && call[1] === ofName
    this.active = true
  }

  /** The trouble ends. */
  end(): void {
    this.active = false
    this.#always = null
  }

  enter(p: SimulatedProcess, name: string, first: unknown, fds: unknown): void {
    if (!this.active) return
    this.#isLate = false
    this.#isTruncated = false
    this.#half = null
    const n = this.#count(p.name)
    const ofName = this.#count(`${p.name} ${name}`)
    const hasFds = name === 'sendMessage' && Array.isArray(fds) && fds.length > 0
    if (this.onCall !== null) {
      const isOfItself = name === 'pidfdOpen' && first === p.pid
      this.#last = { process: p.name, n, name, step: p.steps, hasFds, isOfItself }
      this.onCall(this.#last)
    }
    const point = this.#point
    if (point === null || this.#process !== p.name) return
    const { trouble } = point
    if (this.#always === name && trouble.what === 'fails' && (hasFds || !NEEDS_FDS.has(trouble.code)))
      this.#fail(p, name, trouble.code)
    if (!this.#isHere(n, name, ofName)) return
    this.#ofName = ofName
    this.#play(p, name, point)
  }

  #count(of: string): number {
    const n = (this.#counts.get(of) ?? 0) + 1
    this.#counts.set(of, n)
    return n
  }

  #play(p: SimulatedProcess, name: string, point: Point): void {
    const { world } = p
    const { trouble } = point
    this.played = name
    if (world.traces) world.note(p, `${pointText(point)} at ${name}() ${new Error('here').stack}`)
    this.onPlayed()
    switch (trouble.what) {
      case 'fails':
        if (trouble.always) this.#always = name
        if (trouble.seconds !== undefined) world.after(trouble.seconds * 1_000, () => this.end())
        this.#fail(p, name, trouble.code)
        return
      case 'half':
        this.#half = name
        return
      case 'truncated':
        this.#isTruncated = true
        return
      case 'late':
        this.#isLate = true
        return
      case 'dies before':
        world.kill(p, `dies before ${name}()`)
        throw DEAD
      case 'dies after':
        p.afterCallback = () => world.kill(p, `dies after ${name}()`)
        return
      case 'stops after':
        world.note(p, `stops after ${name}()`)
        world.stop(p, STOP_MS)
    }
  }

  #fail(p: SimulatedProcess, name: string, code: string): never {
    p.world.note(p, `${name}() fails: ${code}`)
    if (CAN_BE_LATE.has(name)) this.#failures++
    // A connection breaks by itself: the process hears of what follows from that within a few turns.
    if (MESSAGES.has(name)) p.stoppedIn = p.turns + HEARD_TURNS
    return fail(code, name)
  }

  /** A timer is started. Returns by how much it is late. */
  timer(p: SimulatedProcess): number {
    if (p.dead) return 0
    this.enter(p, TIMER, null, null)
    return this.takeLateness()
  }

  takeLateness(): number {
    if (!this.#isLate) return 0
    this.#isLate = false
    return LATE_MS
  }

  /** How many of `most` bytes a call of this name moves. */
  part(most: number, name: string): number {
    const isHalf = this.#half === name || (name === 'write' && this.#half === 'writeSync')
    if (!isHalf || most < 2) return most
    this.#half = null
    return Math.floor(most / 2)
  }

  /** A message with descriptors arrives. Returns whether they are lost. */
  truncates(): boolean {
    if (this.#last !== null) this.#last.hasFds = true
    return this.#isTruncated
  }
}
