import type { OwnedFd } from '../../../src/kernel/index.js'
import type { Member } from '../../../src/member/member.js'
import type { Section } from '../../../src/state/section.js'
import type { RecordLayer } from '../../../src/tls13/record-layer.js'
import type { Code } from '../globals.js'
import { DISK } from '../kernel/disk.js'
import type { Origin, SimulatedProcess } from '../process.js'
import { exitWithNothing } from './census.js'
import type { Held } from './held.js'
import type { Ledger } from './ledger.js'
import { decode, encode, HELLO, HELLO_BYTES, NOTHING, recordsOf } from './records.js'
import { Standbys } from './standbys.js'
import type { Tickets } from './tickets.js'

export const CONTROL = '/run/shop/c.sock'
export const [HOST, PORT] = ['127.0.0.1', 80]
/** The address of a second listener, and its later one. */
export const [SECOND_PORT, LATER_PORT] = [82, 83]
/** The answer to a request whose change was refused. */
export const REFUSED = 0xffffffff
/** The state file of a service that has one. */
export const STATE_FILE = `${DISK}/state`
/** A request, and its answer: a number. Without {@link READ} it is a change, with a number that the client has not sent before. */
export const BYTES = 4
/** Asks for the last number of the client whose index follows. */
export const READ = 0x80000000
/** The numbers of a client begin with its index. */
export const NUMBERS = 1_000_000

/** The index of the client whose connections cannot move. */
export const STAYS = 0

export function counterOf(client: number): string {
  return `last of ${client}`
}

/** Whether the change of a number is durable, in a service with a state file. */
export function isDurable(number: number): boolean {
  return number % 2 === 0
}

/** Sends all bytes: one call may move a part. A small request or answer has room. */
export function sendAll({ addon }: Code, fd: number, bytes: Buffer): void {
  for (let done = 0; done < bytes.length; )
    done += Math.max(0, addon.sendMessage(fd, bytes, done, bytes.length - done, null))
}

/** The view that the observer of a run has of a process of the service. */
export interface Version {
  readonly p: SimulatedProcess
  member: Member | null
  notes: Section<Uint8Array> | null
  /** The process joined without a previous version. */
  first: boolean
  /** When it knew that; infinite if there was one. */
  firstAt: number
  /** The state file was damaged before the start. */
  mayRefuse: boolean
  /** `ready()` has resolved. */
  hasServed: boolean
  /** The process has told its holder that it serves, and may have died before `ready()` resolved. */
  hasBegun: boolean
  /** When it must have ended, as its program has ordered; infinite without an order. */
  endsBy: number
  /** The program has called close(). */
  isClosing: boolean
  /** When its connections may be closed by its program's order. */
  cutsFrom: number
  /** When it ceased to serve last; infinite if it has never ceased. */
  ceasedAt: number
  /** Closes the second listener. */
  unlisten(): void
  /** Moves the second listener to another address. */
  relisten(): Promise<void>
  readonly standbys: Standbys
  /** When it served; the last period may not have ended. */
  readonly served: { readonly from: number; to: number }[]
  /** Connections that were open when the program ended by itself. */
  abandoned: number
  /** A request takes so long before it changes the state. */
  takesMs: number
  /** Returns the number of open connections of clients. */
  connections: () => number
  /** The changes that it has refused. */
  readonly refused: { readonly begun: number; readonly at: number; readonly error: Error }[]
}

/** The once-only work of all versions of a service: it must not run in two of them. */
export class OnceOnlyWork {
  /** For so long it goes on when it is told to end. */
  readonly endsMs: number
  /** The runs in the order in which they worked, each as often as another one came in between. */
  readonly turns: { readonly run: number; readonly name: string; readonly at: number }[] = []
  /** When the last one worked. */
  lastAt = 0
  #runs = 0

  constructor(endsMs = 0) {
    this.endsMs = endsMs
  }

  /** Starts to work, as the function that `whileServing()` gets. */
  start(p: SimulatedProcess): () => void | Promise<void> {
    const run = ++this.#runs
    const timer = p.setTimer(() => this.#work(run, p), WORK_MS, true)
    this.#work(run, p)
    if (this.endsMs === 0) return () => p.clearTimer(timer)
    return () =>
      new Promise(resolve => {
        p.setTimer(() => {
          p.clearTimer(timer)
          resolve()
        }, this.endsMs)
      })
  }

  /** A run that went on after another one had worked; null if there was none. */
  get doubled(): string | null {
    const seen = new Set<number>()
    for (const { run, name, at } of this.turns) {
      if (seen.has(run))
        return `${name} goes on with once-only work at ${at.toFixed(3)} that another version has taken over`
      seen.add(run)
    }
    return null
  }

  /** The version that has worked last. */
  get last(): string | null {
    return this.turns.at(-1)?.name ?? null
  }

  get #mayTakeMs(): number {
    return this.endsMs === 0 ? 0 : this.endsMs + HEARD_MS
  }

  #work(run: number, p: SimulatedProcess): void {
    // A process that was stopped amid the immediates of a turn runs its timers before it can hear of anything. Then its work may need time to end.
    const { now } = p.world
    const isEnding = [p.stoppedUntil, p.endsWorkFrom].some(
      at => at > 0 && at <= now && now < at + this.#mayTakeMs,
    )
    if (p.turns <= p.stoppedIn + 1 || isEnding) return
    this.lastAt = p.world.now
    if (this.turns.at(-1)?.run !== run) this.turns.push({ run, name: p.name, at: p.world.now })
  }
}

const WORK_MS = 40
/** A process that was stopped has heard after so long that another one serves. */
const HEARD_MS = 100
/** Up to so long after a part of an answer with TLS the client has room for more. */
const SLOW_MS = 100
/** A connection whose read failed for want of memory is read again after so long. */
const READ_AGAIN_MS = 10
/** Shorter than the longest stops, so that a version gives up a next one that is stopped. */
const READY_MS = 5_000

export interface ProgramOptions {
  readonly probation: number
  readonly hosting: 'embedded' | 'daemon'
  /** Ends before it is ready. */
  readonly crashes?: boolean
  /** The program calls join() so long after its start. */
  readonly loadsMs?: number
  /** Has a second listener, whose server listens elsewhere by the time of the commit: the commit is undone. */
  readonly unservable?: boolean
  /** Has a second listener, which it can close. */
  readonly second?: boolean
  /** Connections move evenly, so many a second. Default: soon. */
  readonly movesPerSecond?: number
  /** Called when the process has joined, and before it does anything else. */
  readonly onJoined?: (version: Version) => void
  /** Called at each change of the member's phase. */
  readonly onPhase?: (phase: string) => void
  /** The service has a state file, and this records its durable changes. */
  readonly ledger: Ledger | null
  /** Names descriptors. */
  readonly held?: Held | null
  /** Shares TLS ticket keys. */
  readonly tickets?: Tickets | null
  /** Writes its pid to the file. */
  readonly pidFile?: string | null
}

/** A program that uses the library as any program does. Each request is a change of the state, which it acknowledges when the change is made. */
export function startVersion(
  code: Code,
  name: string,
  world: SimulatedProcess['world'],
  work: OnceOnlyWork,
  options: ProgramOptions,
  origin: Partial<Origin> = {},
): Version {
  const version: Partial<Version> & { p?: SimulatedProcess } = {
    member: null,
    notes: null,
    first: false,
    firstAt: Number.POSITIVE_INFINITY,
    mayRefuse: false,
    hasServed: false,
    hasBegun: false,
    endsBy: Number.POSITIVE_INFINITY,
    isClosing: false,
    cutsFrom: Number.POSITIVE_INFINITY,
    ceasedAt: Number.POSITIVE_INFINITY,
    standbys: new Standbys(options.probation),
    served: [],
    abandoned: 0,
    takesMs: 0,
    unlisten() {},
    async relisten() {},
    connections: () => 0,
    refused: [],
  }
  const run = async (p: SimulatedProcess) => {
    try {
      await main(code, Object.assign(version, { p }) as Version, work, options)
    } catch (error) {
      world.exitByError(p, error)
    }
  }
  return Object.assign(version, { p: world.start(name, run, origin) }) as Version
}

async function main(
  code: Code,
  version: Version,
  work: OnceOnlyWork,
  {
    probation,
    hosting,
    crashes = false,
    loadsMs = 0,
    unservable = false,
    second = false,
    movesPerSecond,
    onJoined = () => {},
    onPhase = () => {},
    ledger,
    held = null,
    tickets = null,
    pidFile = null,
  }: ProgramOptions,
): Promise<void> {
  const { p } = version
  if (loadsMs > 0) await new Promise<void>(resolve => p.setTimer(resolve, loadsMs))
  const other = new code.Server()
  const logger = loggerOf(p, phase => {
    if (phase === 'ready') other.listening = true
    if (phase === 'serving') version.hasBegun = true
    version.standbys.change(phase, p.world.now)
    onPhase(phase)
  })
  const member = await code.join({
    service: 'shop',
    control: CONTROL,
    hosting,
    logger,
    upgrade: { probation, ready: READY_MS },
    ...(movesPerSecond !== undefined && { drain: { firstWave: 0, movesPerSecond } }),
    ...(ledger !== null && { stateFile: STATE_FILE }),
    ...(pidFile !== null && { pidFile }),
  })
  version.member = member
  version.first = member.first
  if (member.first) {
    version.firstAt = p.world.now
    ledger?.startAgain()
    held?.startAgain()
    tickets?.startAgain()
  }
  const keeper = new Keeper(code, version, ledger)
  version.connections = () => keeper.connections
  // A program ends when its member has retired, or when ready() rejects.
  const end = () => {
    version.abandoned = keeper.connections
  }
  member.on('retired', why =>
    p.setImmediate(() => {
      end()
      exitWithNothing(p, () => p.world.exit(p, `ends: ${why}`))
    }),
  )
  const serves = () => {
    // `resumed` follows no `retiring`.
    if (version.served.at(-1)?.to === Number.POSITIVE_INFINITY) return
    version.served.push({ from: p.world.now, to: Number.POSITIVE_INFINITY })
  }
  for (const event of ['serving', 'reinstated', 'resumed'] as const) member.on(event, serves)
  member.on('retiring', () => {
    version.ceasedAt = p.world.now
    version.served.at(-1)!.to = p.world.now
  })
  version.notes = member.section('notes')
  onJoined(version)
  member.whileServing(() => work.start(p))
  const listener = await member.listen('web', `tcp://${HOST}:${PORT}`)
  const server = new code.Server()
  server.accepted = fd => keeper.add(code.OwnedFd.own(fd, 'connection'))
  listener.serve(server as never, { keeper })
  if (unservable) (await member.listen('zweb', `tcp://${HOST}:${PORT + 1}`)).serve(other as never)
  if (second) await listenTwice(version, member, keeper)
  if (crashes) {
    p.world.kill(p, 'crashes before it is ready')
    return
  }
  held?.adopt(member)
  const keys = tickets?.share(code, p, member)
  await member.ready().catch(error => {
    end()
    throw error
  })
  version.hasServed = true
  if (held !== null) await held.repeat(code, p, member)
  if (keys !== undefined) await tickets?.repeat(p, member, keys)
}

/** Opens the second listener. */
async function listenTwice(version: Version, member: Member, keeper: Keeper): Promise<void> {
  const { code } = keeper
  const serve = (listener: Awaited<ReturnType<Member['listen']>>) => {
    const server = new code.Server()
    server.accepted = fd => keeper.add(code.OwnedFd.own(fd, 'connection'))
    listener.serve(server as never, { keeper })
  }
  serve(await member.listen('second', `tcp://${HOST}:${SECOND_PORT}`))
  version.unlisten = () => member.unlisten('second')
  version.relisten = async () => serve(await member.relisten('second', `tcp://${HOST}:${LATER_PORT}`))
}

/** `onPhase`: called at each change of a member's phase. */
export function loggerOf(p: SimulatedProcess, onPhase: (phase: string) => void = () => {}) {
  const shown = (_: string, value: unknown) =>
    value instanceof Error ? ((value as NodeJS.ErrnoException).code ?? value.message) : value
  const write = (level: string) => (facts: object, message: string) => {
    if (level !== 'info' && !p.dead) p.world.tap?.hear(facts)
    if (message === 'member phase' && 'phase' in facts && !p.dead) onPhase(String(facts.phase))
    if (!p.dead && p.world.traces) p.world.note(p, `${level}: ${message} ${JSON.stringify(facts, shown)}`)
  }
  // A daemon logs its own phases for debugging only.
  const debug = (facts: object, message: string) => {
    if (message === 'member phase' && 'phase' in facts && !p.dead) onPhase(String(facts.phase))
  }
  return { debug, info: write('info'), warn: write('warn'), error: write('error') }
}

/** A connection of a client at the program. */
class Connection {
  readonly fd: OwnedFd
  #poll: { start(events: number): void; close(): void } | null = null
  /** The begin of a request. */
  readonly bytes: number[] = []
  /** Null without TLS. */
  records: RecordLayer | null = null
  #hello: Buffer = NOTHING
  /** Bytes to send that the kernel has not taken. */
  #unsent: Buffer = NOTHING
  /** Another process has the connection. */
  #left = false
  readonly #keeper: Keeper
  busy = false
  /** Since the connection arrived here, for the sender: see Witness in src/connections/movable.ts. */
  asked = false
  answered = false
  /** For the client whose connections cannot move: they drain. */
  stays = false

  constructor(keeper: Keeper, fd: OwnedFd) {
    this.#keeper = keeper
    this.fd = fd
    this.#watch()
  }

  /** Watches the connection; while the kernel lacks memory, again and again. */
  #watch(): void {
    const { code, version } = this.#keeper
    if (this.fd.closed || this.#left) return
    try {
      this.#poll = code.watch(this.fd, () => this.read())
      this.#poll.start(1)
    } catch {
      version.p.setTimer(() => this.#watch(), 1)
    }
  }

  unwatch(): void {
    this.#poll?.close()
  }

  /** Not in the middle of a request. */
  get idle(): boolean {
    const isInRequest = this.bytes.length > 0 || (this.records?.isInRecord ?? false)
    return !this.busy && !isInRequest && !this.stays
  }

  /** Can leave now. With TLS also amid an answer. */
  get mayLeave(): boolean {
    if (this.stays || this.#hello.length > 0) return false
    return !this.busy || (this.records !== null && this.#unsent.length > 0)
  }

  /** Ends this process's part of the connection, and returns its record. */
  leave(): { record: Buffer; fds: OwnedFd[]; wipe?(): void } {
    this.#left = true
    const { bytes, fd, records } = this
    if (records === null) return { record: Buffer.from(bytes), fds: [fd] }
    const state = records.takeState(NOTHING, this.#unsent)
    this.#keeper.version.p.world.secrets.push(Buffer.from(state.readSecret), Buffer.from(state.writeSecret))
    const record = encode(state, bytes)
    return { record, fds: [fd], wipe: () => record.fill(0) }
  }

  /** Goes on after a move. */
  async begin(record: Uint8Array, tls: boolean): Promise<void> {
    if (!tls) this.bytes.push(...record)
    else {
      const { state, bytes } = decode(record)
      this.records = new this.#keeper.code.RecordLayer(state)
      this.bytes.push(...bytes)
      this.busy = true
      await this.#send(this.records.takeSealed())
      this.busy = false
      if (this.#left) return
      this.#take(NOTHING)
    }
    void this.answer()
  }

  /** Takes what has arrived. */
  read(): void {
    const into = Buffer.alloc(64)
    let bytes = 0
    try {
      bytes = this.#keeper.code.receiveMessage(this.fd, into).bytes
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOMEM') {
        this.#readLater()
        return
      }
      // Reset by the client.
    }
    if (bytes === 0) {
      this.#keeper.end(this)
      return
    }
    try {
      this.#take(into.subarray(0, Math.max(0, bytes)))
    } catch (error) {
      this.#keeper.version.p.fail(error)
      this.#keeper.end(this)
      return
    }
    void this.answer()
  }

  /** The kernel has lacked memory. */
  #readLater(): void {
    this.#poll?.start(0)
    this.#keeper.version.p.setTimer(() => {
      if (!this.fd.closed && !this.#left) this.#poll?.start(1)
    }, READ_AGAIN_MS)
  }

  /** Takes bytes of the client. */
  #take(bytes: Buffer): void {
    const isInRequest = this.bytes.length > 0 || bytes[0] !== HELLO
    if (this.records === null && this.#hello.length === 0 && isInRequest) {
      this.bytes.push(...bytes)
      return
    }
    let rest = bytes
    if (this.records === null) {
      const begun = Buffer.concat([this.#hello, bytes])
      if (begun.length < HELLO_BYTES) {
        this.#hello = begun
        return
      }
      this.records = recordsOf(this.#keeper.code, begun.subarray(0, HELLO_BYTES), 'server')
      this.#hello = NOTHING
      rest = begun.subarray(HELLO_BYTES)
    }
    this.records.receive(rest, content => void this.bytes.push(...content))
  }

  async answer(): Promise<void> {
    if (this.busy) return
    while (this.bytes.length >= BYTES && !this.fd.closed && !this.#left) {
      const request = Buffer.from(this.bytes.splice(0, BYTES))
      this.busy = this.asked = true
      await this.#serve(request)
      await this.#send(this.records === null ? request : Buffer.concat(this.records.seal(request)))
      this.busy = false
      if (this.fd.closed || this.#left) return
      this.answered = true
    }
    this.#keeper.movable(this)
  }

  /** Replaces a request by its answer. */
  async #serve(request: Buffer): Promise<void> {
    const { ledger, version } = this.#keeper
    const { p, notes, refused } = version
    const number = request.readUInt32BE()
    if (number >= READ) {
      request.set(notes!.get(counterOf(number - READ)) ?? Buffer.alloc(BYTES))
      p.world.note(p, `shows ${request.readUInt32BE()} to client`)
      return
    }
    const value = Buffer.from(request)
    this.stays = Math.floor(number / NUMBERS) === STAYS
    // A change of a lost connection may be made later than the next one.
    const latest = (before: Uint8Array | undefined) =>
      before !== undefined && Buffer.from(before).readUInt32BE() > number ? undefined : value
    const { takesMs } = version
    if (takesMs > 0) await new Promise<void>(resolve => p.setTimer(resolve, takesMs))
    const begun = p.world.now
    const durable = ledger !== null && isDurable(number)
    const options = durable ? { durable } : {}
    const key = value.toString('hex')
    const changes = [
      notes!.put(key, value, options),
      notes!.update(counterOf(Math.floor(number / NUMBERS)), latest, options),
    ]
    await Promise.all(changes)
      .then(() => {
        if (durable) ledger.add(p, key)
        p.world.note(p, `has changed ${number}`)
      })
      .catch(error => {
        p.world.note(p, `a change was refused: ${error.code}`)
        // A dead process refuses nothing: its last call has failed.
        if (!p.dead) refused.push({ begun, at: p.world.now, error })
        request.writeUInt32BE(REFUSED)
      })
  }

  /** Sends bytes; while the kernel lacks memory or room, again and again. */
  async #send(bytes: Buffer): Promise<void> {
    const { version, code } = this.#keeper
    this.#unsent = bytes
    while (this.#unsent.length > 0 && !this.fd.closed && !this.#left) {
      let sent = -1
      try {
        sent = code.sendMessage(this.fd, this.#unsent, 0, this.#unsent.length, [])
      } catch (error) {
        // The client has left: the poll tells.
        const { code: errno = '' } = error as NodeJS.ErrnoException
        if (errno !== 'ENOMEM' && errno !== 'ENOBUFS') break
      }
      this.#unsent = this.#unsent.subarray(Math.max(0, sent))
      // With TLS the connection may leave after a part.
      if (sent >= 0 && (this.records === null || this.#unsent.length === 0)) continue
      this.#keeper.movable(this)
      const ms = sent >= 0 ? 1 + version.p.world.below(SLOW_MS) : 1
      await new Promise<void>(resolve => version.p.setTimer(resolve, ms))
    }
    this.#unsent = NOTHING
  }
}

/** The connections of a version, which can move between two requests. */
class Keeper {
  readonly code: Code
  readonly version: Version
  readonly ledger: Ledger | null
  readonly moving = [new Moving(this, false), new Moving(this, true)]
  readonly #open = new Set<Connection>()
  readonly #onEmpty: (() => void)[] = []

  constructor(code: Code, version: Version, ledger: Ledger | null) {
    this.code = code
    this.version = version
    this.ledger = ledger
  }

  get connections(): number {
    return this.#open.size
  }

  /** The connections with TLS, or those without. */
  open(tls: boolean): Connection[] {
    return [...this.#open].filter(({ records }) => (records !== null) === tls)
  }

  /** The connection may be able to leave. */
  movable({ records }: Connection): void {
    this.moving[records === null ? 0 : 1]!.onMovable?.()
  }

  add(fd: OwnedFd): Connection {
    const connection = new Connection(this, fd)
    this.#open.add(connection)
    return connection
  }

  end(connection: Connection): void {
    this.remove(connection)
    connection.fd.close()
  }

  announce(): void {}

  endIdle(): void {
    for (const each of this.#open) {
      // As `AttachedServer.endIdle()`: a request may have arrived that was not read yet.
      if (each.idle) each.read()
      if (each.idle && !each.fd.closed) this.end(each)
    }
  }

  emptied(): Promise<void> {
    return new Promise(resolve => {
      if (this.#open.size === 0) resolve()
      else this.#onEmpty.push(resolve)
    })
  }

  cut() {
    for (const each of this.#open) this.end(each)
    return { idle: 0, busy: 0 }
  }

  remove(connection: Connection): void {
    connection.unwatch()
    this.#open.delete(connection)
    if (this.#open.size > 0) return
    for (const resolve of this.#onEmpty.splice(0)) resolve()
  }
}

/** The connections of one protocol. */
class Moving {
  readonly protocol: string
  readonly secret: boolean
  onMovable: (() => void) | null = null
  readonly #keeper: Keeper

  constructor(keeper: Keeper, tls: boolean) {
    this.#keeper = keeper
    this.protocol = tls ? 'numbers-tls/1' : 'numbers/1'
    this.secret = tls
  }

  get movable(): number {
    return this.#keeper.open(this.secret).length
  }

  *departures() {
    for (const each of this.#keeper.open(this.secret)) {
      if (!each.mayLeave) continue
      this.#keeper.remove(each)
      yield each.leave()
    }
  }

  check(): undefined {}

  arrive({ record, fds }: { record: Uint8Array; fds: readonly OwnedFd[] }) {
    const connection = this.#keeper.add(fds[0]!)
    void connection.begin(record, this.secret)
    return connection
  }
}
