import type { Code } from '../../globals.js'
import { STATUS_BYTES } from '../../kernel/health-checks.js'
import type { Stream } from '../../kernel/objects.js'
import type { Origin, SimulatedProcess } from '../../process.js'
import type { World } from '../../world.js'
import type { Served } from '../full-group.js'
import { BYTES, sendAll } from '../program.js'

/** Named as Node is: `run` looks at the memory before it starts another process of Node. */
export const PROGRAM = '/srv/node'
/** The first descriptor is the listener of the clients; the second one that of the health checks. */
const LISTENER = 3
const CHECKS = 4
const READABLE = 1
const OK = 200
const SICK = 503
const SLOW_MS = 8_000
/** A program answers within this time. */
const WORK_MS = 40
/** A connection without a request is closed so long after an order to end. */
const IDLE_MS = 1_000
/** A health check may be on its way when the program is told to end. */
const CHECK_MS = 100

/** How a program behaves that is started now; without any it is a good one. */
export type Manner =
  /** Ends before being ready, with code 3 or 0. */
  | 'crashes'
  | 'ends early'
  /** Serves, and ends soon after that with an error. */
  | 'ends soon'
  | 'never ready'
  /** Becomes ready shortly before or after the time limit. */
  | 'late'
  /** Serves on after an order to end. */
  | 'ignores TERM'
  /** Ends at once after an order to end, with all connections. */
  | 'drops'
  /** Starts another process, which serves too and lives longer. */
  | 'forks'
  /** Answers its health checks badly, and ignores an order to end. */
  | 'stays sick'

/** How a health check is answered. */
export type Health = 'good' | 'bad' | 'late' | 'half' | 'never'

/** A process of the supervised program. */
export interface Program {
  readonly p: SimulatedProcess
  readonly manner: Manner | null
  health: Health
  /** When it began to accept. */
  readyAt: number
  /** When it was first told to end; infinite if it was not. */
  toldAt: number
  /** The program ended by itself, or an act ended it: connections may have been cut. */
  isAtFault: boolean
  /** A process that the program has started. */
  readonly isHelper: boolean
}

/** All processes of a program that `fd-broker run` has started. */
export class Programs {
  readonly #code: Code
  readonly #world: World
  readonly #all: Program[] = []
  /** The program that accepted the client's end of a connection. */
  readonly #accepted = new WeakMap<Stream, Program>()
  /** Health checks of programs that were told to end. */
  readonly wrong: string[] = []
  /** How the programs are that are started now. */
  manner: Manner | null = null
  readonly #readyMs: () => number

  constructor(code: Code, world: World, readyMs: () => number) {
    this.#code = code
    this.#world = world
    this.#readyMs = readyMs
  }

  get all(): readonly Program[] {
    return this.#all
  }

  get living(): Program[] {
    return this.#all.filter(({ p }) => !p.dead)
  }

  /** The main processes that accept connections, as long as they were not told to end. */
  get serving(): Program[] {
    return this.living.filter(
      ({ readyAt, toldAt, isHelper }) => !isHelper && readyAt <= this.#world.now && toldAt > this.#world.now,
    )
  }

  /** The main processes that have accepted connections, and when they were told to end. */
  get served(): Served[] {
    const mains = this.#all.filter(({ isHelper, readyAt }) => !isHelper && readyAt <= this.#world.now)
    return mains.map(({ p, toldAt }) => ({ p, to: toldAt }))
  }

  of(p: SimulatedProcess): Program | undefined {
    return this.#all.find(each => each.p === p)
  }

  acceptorOf(end: Stream): Program | undefined {
    return this.#accepted.get(end)
  }

  start(origin: Origin, isHelper = false): SimulatedProcess {
    const mains = this.#all.filter(each => !each.isHelper).length
    const name = isHelper ? `h${mains}` : `v${mains + 1}`
    const program: Omit<Program, 'p'> & { p?: SimulatedProcess } = {
      manner: this.manner,
      health: this.manner === 'stays sick' ? 'bad' : 'good',
      readyAt: Number.POSITIVE_INFINITY,
      toldAt: Number.POSITIVE_INFINITY,
      isAtFault: false,
      isHelper,
    }
    const main = async (p: SimulatedProcess) =>
      new Server(this.#code, this, program as Program, this.#readyMs()).run(p)
    const p = this.#world.start(name, main, origin)
    this.#all.push(Object.assign(program, { p }))
    return p
  }

  note(end: Stream, program: Program): void {
    if (end.peer !== null) this.#accepted.set(end.peer, program)
  }

  /** The program starts a process of its own, with the same listeners. */
  fork(parent: SimulatedProcess): void {
    const fds = [...parent.fds.values()]
    const given = { fds, deathSignal: 0, pidVariable: null }
    this.start({ script: PROGRAM, parent, env: parent.env, leads: false, given }, true)
  }
}

/** A program that serves as any program does, with the listeners that it finds by LISTEN_FDS. */
class Server {
  readonly #code: Code
  readonly #programs: Programs
  readonly #program: Program
  readonly #readyMs: number
  readonly #connections = new Set<Connection>()
  #listener: { close(): void } | null = null
  #isEnding = false

  constructor(code: Code, programs: Programs, program: Program, readyMs: number) {
    this.#code = code
    this.#programs = programs
    this.#program = program
    this.#readyMs = readyMs
  }

  run(p: SimulatedProcess): void {
    const { manner, isHelper } = this.#program
    if (isHelper) {
      this.#serve(p)
      return
    }
    const at = this.#readyMs
    if (manner === 'crashes' || manner === 'ends early') {
      p.setTimer(() => this.#end(p, manner === 'crashes' ? 3 : 0), at)
      return
    }
    if (manner === 'never ready') return
    p.setTimer(() => this.#serve(p), manner === 'late' ? at + 4_800 : at)
    if (manner === 'ends soon') p.setTimer(() => this.#end(p, 3), at + 1_500)
    if (manner === 'forks') p.setTimer(() => this.#programs.fork(p), at + 10)
  }

  /** Ends by itself. */
  #end(p: SimulatedProcess, code: number): void {
    this.#program.isAtFault = true
    p.world.exit(p, `ends with code ${code}`, code)
  }

  #serve(p: SimulatedProcess): void {
    const { manner, isHelper } = this.#program
    this.#program.readyAt = p.world.now
    if (!isHelper || manner !== 'forks')
      for (const signal of ['SIGTERM', 'SIGINT', 'SIGQUIT'] as const)
        p.events.on(signal, () => this.#toldToEnd(p))
    const accepts = (fd: number, made: (fd: number) => void) => {
      const poll = this.#code.addon.createPoll(fd, () => {
        const got = this.#code.addon.accept(fd)
        if (got >= 0) made(got)
      })
      poll.start(READABLE)
      return poll
    }
    this.#listener = accepts(LISTENER, fd => this.#accepted(p, fd))
    if (!isHelper && p.env.LISTEN_FDS === '2') accepts(CHECKS, fd => this.#checked(p, fd))
    const ready = Number(p.env.FD_BROKER_READY_FD)
    if (!isHelper && ready > 0) this.#code.addon.sendMessage(ready, Buffer.from('\n'), 0, 1, null)
  }

  #accepted(p: SimulatedProcess, fd: number): void {
    this.#programs.note(p.fds.get(fd) as Stream, this.#program)
    const connection = new Connection(this.#code, p, fd, () => {
      this.#connections.delete(connection)
      this.#mayEnd(p)
    })
    this.#connections.add(connection)
    if (this.#isEnding) connection.end()
  }

  /** Answers a health check. */
  #checked(p: SimulatedProcess, fd: number): void {
    const { addon } = this.#code
    const { health, toldAt } = this.#program
    if (p.stoppedUntil === 0 && toldAt + CHECK_MS < p.world.now)
      this.#programs.wrong.push(`${p.name} gets a health check, and was told to end at ${toldAt.toFixed(3)}`)
    const answer = Buffer.alloc(STATUS_BYTES)
    answer.writeUInt32BE(health === 'bad' ? SICK : OK)
    const send = () => {
      try {
        sendAll(this.#code, fd, health === 'half' ? answer.subarray(0, 2) : answer)
      } catch {
        // The check is over.
      }
      addon.close(fd)
    }
    if (health !== 'never') p.setTimer(send, health === 'late' ? SLOW_MS : 1)
  }

  #toldToEnd(p: SimulatedProcess): void {
    const { manner } = this.#program
    this.#program.toldAt = Math.min(this.#program.toldAt, p.world.now)
    if (manner === 'ignores TERM' || manner === 'stays sick') return
    if (manner === 'drops') {
      this.#end(p, 0)
      return
    }
    if (this.#isEnding) return
    this.#isEnding = true
    this.#listener?.close()
    const { addon } = this.#code
    // Also those that wait: only this process can accept them.
    for (let fd = addon.accept(LISTENER); fd >= 0; fd = addon.accept(LISTENER)) this.#accepted(p, fd)
    addon.close(LISTENER)
    for (const connection of [...this.#connections]) connection.end()
    this.#mayEnd(p)
  }

  #mayEnd(p: SimulatedProcess): void {
    if (this.#isEnding && this.#connections.size === 0) p.world.exit(p, 'ends', 0)
  }
}

/** A connection of a client. */
class Connection {
  readonly #code: Code
  readonly #p: SimulatedProcess
  readonly #fd: number
  readonly #closed: () => void
  readonly #poll: { close(): void }
  #got = Buffer.alloc(0)
  #answers = 0
  #isBusy = false
  #isEnding = false
  #isClosed = false

  constructor(code: Code, p: SimulatedProcess, fd: number, closed: () => void) {
    this.#code = code
    this.#p = p
    this.#fd = fd
    this.#closed = closed
    const poll = code.addon.createPoll(fd, () => this.#read())
    poll.start(READABLE)
    this.#poll = poll
  }

  /** Ends the connection when its request is answered. */
  end(): void {
    this.#isEnding = true
    if (this.#isBusy) return
    if (this.#answers > 0) this.#close()
    else this.#p.setTimer(() => this.#isBusy || this.#close(), IDLE_MS)
  }

  #read(): void {
    const into = Buffer.alloc(64)
    let bytes = 0
    try {
      ;({ bytes } = this.#code.addon.receiveMessage(this.#fd, into, 0, into.length))
    } catch {
      // The client has reset the connection.
    }
    if (bytes < 0) return
    if (bytes === 0) {
      this.#close()
      return
    }
    this.#got = Buffer.concat([this.#got, into.subarray(0, bytes)])
    if (this.#got.length < BYTES) return
    const request = this.#got.subarray(0, BYTES)
    this.#got = this.#got.subarray(BYTES)
    this.#isBusy = true
    this.#p.setTimer(() => this.#answer(request), this.#p.world.below(WORK_MS))
  }

  #answer(request: Buffer): void {
    if (this.#isClosed) return
    this.#isBusy = false
    this.#answers++
    try {
      sendAll(this.#code, this.#fd, request)
    } catch {
      this.#close()
      return
    }
    if (this.#isEnding) this.#close()
  }

  #close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#poll.close()
    this.#code.addon.close(this.#fd)
    this.#closed()
  }
}
