import type { ServerState } from '../../src/proxy/upstreams/upstream.js'
import type { SimulatedClock } from './clock.js'
import type { SimulatedEdge } from './edge.js'
import type { Settings } from './schedule.js'
import type { ServerStream } from './streams.js'

/** So long a free server may go without a request that waits: processes ask each other every 5 ms. */
const SOON_MS = 12
const SOON_TURNS = 4
/** The same for a connection that another process keeps idle. */
const ASKED_MS = 60
/** So long a request without a queue waits for a connection of another process, or in a queue that is gone. */
const UNQUEUED_MS = 250
/** A limit of time ends up to two ticks late. */
const LATE_MS = 60
export interface RequestFacts {
  readonly post: boolean
  readonly answerMs: number
  readonly last: boolean
}

/** A request, as its client and the servers know it. */
export interface Request extends RequestFacts {
  readonly id: number
  readonly edge: SimulatedEdge
  readonly sentAt: number
  readonly sentIn: number
  /** The settings that there have been since it came. */
  readonly seen: Settings[]
  state: 'asking' | 'open' | 'answered' | 'gone'
  /** The connection on which it is. */
  stream: ServerStream | null
  /** When it was sent on this connection. */
  sentOn: number
  /** Servers that could not be used. */
  readonly failures: { readonly key: string; readonly how: 'refused' | 'timeout' | 'closed' }[]
  /** Servers whose connection closed after it was sent. */
  readonly lost: Set<string>
  /** Servers that have got it, in order. */
  readonly delivered: string[]
  /** The first of them got it over a kept connection. */
  wasKept: boolean
  /** Servers to which it was sent. */
  readonly sentTo: Set<string>
  /** Since when it waits for a server; null: it does not. */
  waits: Moment | null
  /** When it began to wait for the first time. */
  firstWait: Moment | null
}

interface Moment {
  readonly at: number
  readonly turn: number
}

/** The state of a server for one process. */
interface Place {
  readonly state: ServerState
  /** No other server is in a better state, so that waiting requests may get it. */
  readonly isUsable: boolean
  /** A further connection is within the limit, or one is idle. */
  readonly isFree: boolean
  /** As this, if other processes give up what they have idle. */
  readonly isFreeWhenAsked: boolean
}

/** Checks what the processes of a proxy do with requests against the rules of docs/proxy-config.md, from what clients and servers see. */
export class Judge {
  readonly wrong: string[] = []
  readonly story: string[] = []
  readonly requests = new Map<number, Request>()
  readonly #clock: SimulatedClock
  readonly #edges: readonly SimulatedEdge[]
  readonly #streams = new Set<ServerStream>()
  /** Since when a server is usable and free, by process and server. */
  readonly #free = new Map<string, Moment>()
  readonly #freeWhenAsked = new Map<string, Moment>()
  /** Since when a server has no trial that a request makes, though its state says so. */
  readonly #probedByNone = new Map<string, Moment>()
  /** How many connections a process had to a server when its configuration changed. */
  readonly #before = new Map<string, number>()
  readonly #lacksUntil = new Map<number, number>()
  readonly #ended = new Map<string, number>()
  /** Something has happened since the last look. */
  #hasChanged = true
  #late = 0
  #full = 0

  constructor(clock: SimulatedClock, edges: readonly SimulatedEdge[]) {
    this.#clock = clock
    this.#edges = edges
  }

  note(text: string): void {
    this.#hasChanged = true
    this.story.push(`${(this.#clock.now - 1_000).toFixed(2).padStart(9)} ${text}`)
  }

  blame(text: string): void {
    this.note(`WRONG: ${text}`)
    this.wrong.push(text)
  }

  get #now(): Moment {
    return { at: this.#clock.now, turn: this.#clock.turn }
  }

  asks(id: number, edge: SimulatedEdge, { post, answerMs, last }: RequestFacts): Request {
    const request: Request = {
      ...{ id, edge, post, answerMs, last },
      sentAt: this.#clock.now,
      sentIn: this.#clock.turn,
      seen: [edge.settings],
      state: 'asking',
      stream: null,
      sentOn: 0,
      failures: [],
      lost: new Set(),
      delivered: [],
      wasKept: false,
      sentTo: new Set(),
      waits: null,
      firstWait: null,
    }
    this.requests.set(id, request)
    return request
  }

  /** The relay has read the request. */
  sent(request: Request): void {
    if (request.state === 'asking') request.state = 'open'
    this.#seeWait(request)
  }

  #seeWait(request: Request): void {
    if (request.state !== 'open') request.waits = null
    else if (request.stream !== null) request.waits = null
    else if (request.waits === null) {
      request.waits = this.#now
      request.firstWait ??= request.waits
      this.note(`${request.id} waits`)
    }
  }

  dialled(stream: ServerStream): void {
    const { key, edge } = stream
    this.#streams.add(stream)
    const limit = this.#edges[edge]!.settings.connections
    // Requests that wait go to the server that was removed or drained if no other is left, within the limit that it had.
    if (limit === null || !this.#edges.every(each => this.#places(each).has(key))) return
    const own = this.#openOf(key).filter(each => each.edge === edge).length
    // A lower limit closes none of those that are there, and lets requests be repeated over new ones.
    if (own > Math.max(limit, this.#before.get(`${edge} ${key}`) ?? 0))
      this.blame(`edge ${edge} has ${own} connections to ${key}, and the limit is ${limit}`)
    const most = Math.max(
      ...this.#edges.map(({ settings }) => settings.connections ?? Number.POSITIVE_INFINITY),
    )
    const changedAt = Math.max(...this.#edges.map(each => each.changedAt))
    const all = this.#openOf(key)
    if (all.every(({ dialledAt }) => dialledAt > changedAt) && all.length > most)
      this.blame(`all processes have ${all.length} connections to ${key}, and the limit is ${most}`)
  }

  /** The process has another configuration now. */
  changed(edge: SimulatedEdge): void {
    for (const request of this.requests.values())
      if (request.edge === edge && request.state !== 'answered') request.seen.push(edge.settings)
    for (const { key } of this.#streams)
      this.#before.set(
        `${edge.number} ${key}`,
        this.#openOf(key).filter(each => each.edge === edge.number).length,
      )
  }

  #openOf(key: string): ServerStream[] {
    return [...this.#streams].filter(stream => stream.key === key && stream.alive)
  }

  /** Returns the state of each server that is not drained. */
  #places(edge: SimulatedEdge): Map<string, Place> {
    const servers = edge.servers.filter(({ state }) => state !== 'drained')
    const isGood = ({ state, triedInSeconds }: ServerState) =>
      state === 'up' || (state !== 'failing' && triedInSeconds !== null && triedInSeconds <= 0)
    const isPassing = ({ state }: ServerState) => state !== 'failing'
    // Backup servers come behind the others in each state.
    const isMain = ({ backup }: ServerState) => !backup
    const isAny = () => true
    const usable =
      [isGood, isPassing, isAny]
        .flatMap(state => [isMain, isAny].map(tier => servers.filter(each => state(each) && tier(each))))
        .find(each => each.length > 0) ?? []
    const limit = edge.settings.connections ?? Number.POSITIVE_INFINITY
    return new Map(
      servers.map(state => {
        const open = this.#openOf(state.server)
        const idle = open.filter(({ isIdle }) => isIdle)
        const own = idle.some(stream => stream.edge === edge.number)
        return [
          state.server,
          {
            state,
            isUsable: usable.includes(state),
            isFree: open.length < limit || (own && open.length <= limit),
            isFreeWhenAsked: open.length - idle.length < limit,
          },
        ]
      }),
    )
  }

  /** After each turn. */
  look(): void {
    const open = [...this.requests.values()].filter(({ state }) => state === 'open')
    if (open.length === 0 && !this.#hasChanged) return
    this.#hasChanged = open.length > 0
    for (const request of open) this.#seeWait(request)
    for (const edge of this.#edges) this.#lookAt(edge, open)
  }

  #lookAt(edge: SimulatedEdge, open: readonly Request[]): void {
    const now = this.#now
    const places = this.#places(edge)
    const keep = (since: Map<string, Moment>, key: string, holds: boolean | undefined) => {
      const id = `${edge.number} ${key}`
      if (!holds) since.delete(id)
      else if (!since.has(id)) since.set(id, now)
    }
    for (const key of new Set([...places.keys(), ...this.#keysOf(edge)])) {
      const place = places.get(key)
      keep(this.#free, key, place?.isUsable && place.isFree)
      keep(this.#freeWhenAsked, key, place?.isUsable && place.isFreeWhenAsked)
      keep(this.#probedByNone, key, place !== undefined && this.#isProbedByNone(edge, place))
      const since = this.#probedByNone.get(`${edge.number} ${key}`)
      if (since !== undefined && now.turn - since.turn === SOON_TURNS && now.at - since.at >= 0)
        this.blame(
          `edge ${edge.number}: ${key} is tried by no request, and its state is ${place!.state.state}`,
        )
    }
    for (const request of open) {
      if (request.edge !== edge || request.state !== 'open' || request.waits === null) continue
      // Without a queue it waits for one server, and 250 ms at most.
      if (request.seen.some(({ queue }) => queue === null)) continue
      const key =
        this.#freeFor(request, this.#free, SOON_MS, request.waits) ??
        this.#freeFor(request, this.#freeWhenAsked, ASKED_MS, request.waits)
      if (key === undefined) continue
      this.blame(`request ${request.id} waits, and ${key} has a free place`)
      request.waits = { at: Number.POSITIVE_INFINITY, turn: Number.POSITIVE_INFINITY }
    }
  }

  #keysOf({ number }: SimulatedEdge): string[] {
    return [...this.#free.keys(), ...this.#freeWhenAsked.keys(), ...this.#probedByNone.keys()]
      .filter(id => id.startsWith(`${number} `))
      .map(id => id.slice(id.indexOf(' ') + 1))
  }

  /** The state says that a request tries the server, and none does. */
  #isProbedByNone(edge: SimulatedEdge, { state }: Place): boolean {
    if (state.state !== 'probing' || state.triedInSeconds === null || state.triedInSeconds <= 0) return false
    return ![...this.requests.values()].some(
      ({ edge: of, stream, state: open }) => of === edge && open !== 'gone' && stream?.key === state.server,
    )
  }

  /** Returns a server that has been usable and free for a while, also since `from`, and may get the request. */
  #freeFor(
    request: Request,
    since: ReadonlyMap<string, Moment>,
    ms: number,
    from: Moment,
  ): string | undefined {
    const { number } = request.edge
    for (const [id, began] of since) {
      if (!id.startsWith(`${number} `)) continue
      const key = id.slice(id.indexOf(' ') + 1)
      const at = Math.max(began.at, from.at, request.edge.changedAt)
      const turn = Math.max(began.turn, from.turn)
      if (this.#clock.now - at < ms || this.#clock.turn - turn < SOON_TURNS) continue
      if (this.#mayGet(request, key)) return key
    }
    return undefined
  }

  #mayGet({ failures, edge, seen, sentAt }: Request, key: string): boolean {
    // Without a port the request tries and awaits a server no more.
    if ((this.#lacksUntil.get(edge.number) ?? 0) >= sentAt) return false
    const retry = Math.min(...seen.map(({ retry }) => retry))
    return failures.length <= retry && !failures.some(each => each.key === key)
  }

  /** The relay begins to send a request to a server. */
  dispatched(stream: ServerStream, id: number): void {
    const request = this.requests.get(id)!
    const { edge } = request
    const { key } = stream
    this.note(`${id} goes to ${key}${stream.isReused ? ', over an idle connection' : ''}`)
    if (request.state === 'answered') this.blame(`request ${id} is sent after its answer`)
    if (stream.edge !== edge.number)
      this.blame(`request ${id} came to edge ${edge.number}, not ${stream.edge}`)
    const isAgain = request.sentTo.has(key)
    const hasWaited = request.firstWait !== null
    request.stream = stream
    request.sentOn = this.#clock.now
    request.sentTo.add(key)
    if (!isAgain) this.#judgeChoice(request, key, hasWaited)
    request.waits = null
  }

  #judgeChoice(request: Request, key: string, hasWaited: boolean): void {
    const { edge, id } = request
    const places = this.#places(edge)
    const place = places.get(key)
    if (request.failures.some(each => each.key === key)) this.blame(`request ${id} tries ${key} twice`)
    if (place === undefined) {
      if (!hasWaited || places.size > 0)
        this.blame(`request ${id} goes to ${key}, which is drained or removed`)
      return
    }
    const { state, triedInSeconds } = place.state
    const isBad = state === 'failing' || (state === 'down' && triedInSeconds !== null && triedInSeconds > 0)
    // A new request does not overtake those that wait in a queue that a reload has removed.
    const isBehind =
      edge.settings.queue === null &&
      [...this.requests.values()].some(each => each.edge === edge && each.waits !== null)
    const isMain = (key: string) => places.get(key)?.state.backup === false
    const isBackup = !isMain(key) && [...places.keys()].some(isMain)
    if ((isBad || isBackup) && !isBehind) {
      const better = this.#freeFor(request, this.#free, 0, { at: 0, turn: 0 })
      // Another request may have got it in this turn.
      const isFree = better !== undefined && places.get(better)?.isFree
      if (isFree && !this.#isBadOf(places, better) && (isBad || isMain(better)))
        this.blame(
          `request ${id} goes to ${key}, which is ${isBad ? state : 'a backup'}, and ${better} is free`,
        )
    }
    if (edge.settings.connections === null || edge.settings.queue === null) return
    const own = request.firstWait?.turn ?? request.sentIn
    for (const other of this.requests.values()) {
      if (other === request || other.edge !== edge || other.state !== 'open' || other.waits === null) continue
      // A wait without a queue has no place in one.
      if (other.seen.some(({ queue }) => queue === null)) continue
      const first = other.firstWait!
      const isUsable = place.isUsable && state === 'up' && this.#clock.turn - other.waits.turn > SOON_TURNS
      if (isUsable && first.turn < own && this.#mayGet(other, key) && edge.changedAt < other.waits.at)
        this.blame(`request ${id} goes to ${key}, and ${other.id} has waited longer`)
    }
  }

  #isBadOf(places: ReadonlyMap<string, Place>, key: string): boolean {
    const { state, triedInSeconds } = places.get(key)?.state ?? { state: 'failing', triedInSeconds: null }
    return state === 'failing' || (state !== 'up' && triedInSeconds !== null && triedInSeconds > 0)
  }

  /** A server has got the whole request. */
  delivered(stream: ServerStream, id: number): void {
    const request = this.requests.get(id)!
    request.delivered.push(stream.key)
    const others = new Set(request.delivered)
    if (request.post && request.delivered.length > 1)
      this.blame(`two servers, or one twice, get request ${id}`)
    if (others.size > 2) this.blame(`${others.size} servers get request ${id}`)
    // A kept connection shows nothing about its server when it closes.
    if (request.delivered.length === 1) request.wasKept = stream.isReused
    if (others.size > 1 && !request.wasKept && request.seen.every(({ resend }) => resend === 0))
      this.blame(`two servers get request ${id}, and resend is 0`)
  }

  answers({ key }: ServerStream, id: number): void {
    this.note(`${key} answers ${id}`)
  }

  /** A connection to a server has closed. */
  gone(stream: ServerStream): void {
    this.#streams.delete(stream)
    const request = stream.request === null ? undefined : this.requests.get(stream.request)
    if (request?.stream !== stream) return
    request.stream = null
    if (request.state !== 'open' && request.state !== 'asking') return
    const { key } = stream
    if (!stream.connecting) request.lost.add(key)
    const limit = Math.min(...request.seen.map(({ connect }) => connect))
    const how = stream.connecting
      ? stream.failure === 'refused'
        ? 'refused'
        : this.#clock.now - stream.dialledAt >= limit
          ? 'timeout'
          : null
      : stream.failure === 'closed' && !stream.isReused
        ? 'closed'
        : null
    this.note(`${request.id}: the connection to ${key} is gone: ${how}`)
    if (how !== null) request.failures.push({ key, how })
  }

  lacks(edge: number, until: number): void {
    this.#lacksUntil.set(edge, until)
  }

  queued(edge: number, how: 'served' | 'late' | 'full'): void {
    this.#ended.set(how, (this.#ended.get(how) ?? 0) + 1)
    this.note(`edge ${edge}: a request of the queue is ${how}`)
  }

  answered(request: Request | null, status: number, reason: string): void {
    if (request === null) {
      this.blame(`a client gets ${status} ${reason}, and has not asked`)
      return
    }
    this.note(`${request.id} gets ${status} ${reason}`)
    if (request.state === 'answered') this.blame(`request ${request.id} gets a second answer, ${status}`)
    else if (status === 500 && reason === 'ok') this.note('an error of the server')
    else if (status !== 200) this.#judgeError(request, status, reason)
    request.state = 'answered'
    request.stream = null
    request.waits = null
  }

  #judgeError(request: Request, status: number, reason: string): void {
    const { edge, id, failures } = request
    const now = this.#clock.now
    const says = `request ${id} gets ${status} ${reason}`
    const isShort = (this.#lacksUntil.get(edge.number) ?? 0) + SOON_MS > now
    const queue = request.seen.every(each => each.queue !== null)
    const places = this.#places(edge)
    /** A server that has been free for some turns. */
    const free = this.#freeFor(
      request,
      this.#free,
      request.seen.some(each => each.queue !== null) ? SOON_MS : 0,
      { at: 0, turn: 0 },
    )
    const blameIf = (isWrong: boolean, why: string) => {
      if (isWrong) this.blame(`${says}, and ${why}`)
    }
    if (reason === 'no-descriptors' || reason === 'no-ports') {
      blameIf(!isShort, 'nothing is short')
      return
    }
    const mayResend =
      !request.post && request.seen.every(({ resend }) => resend > 0) && new Set(request.delivered).size === 1
    const isFinal =
      reason === 'response-timeout' || (reason === 'upstream-closed' && !mayResend) || request.lost.size > 1
    // One that begins to wait in this turn has no `waits` yet.
    const others = [...this.requests.values()].filter(
      each => each !== request && each.edge === edge && each.state === 'open' && each.stream === null,
    )
    const place = free === undefined ? undefined : places.get(free)
    const isStill = place?.isUsable === true && place.isFree
    if (isStill && !isFinal) this.blame(`${says}, and ${free} is free`)
    /** Servers that it may wait for. */
    const left = [...places]
      .filter(([key, { isUsable }]) => isUsable && this.#mayGet(request, key))
      .map(([key]) => key)
    switch (reason) {
      case 'no-server':
        blameIf(left.length > 0, `${left} are there`)
        return
      case 'servers-full':
        blameIf(queue && left.length > 0, 'there is a queue')
        return
      case 'queue-full': {
        const most = Math.min(...request.seen.map(({ queue }) => queue?.requests ?? 0))
        this.#full++
        blameIf(others.length < most, `${others.length} requests wait, of ${most}`)
        return
      }
      case 'queue-timeout': {
        const waited = now - (request.firstWait?.at ?? now)
        const hasLacked = request.seen.some(({ queue }) => queue === null)
        const limits = request.seen.map(({ queue }) => queue?.timeout ?? UNQUEUED_MS)
        this.#late++
        blameIf(!hasLacked && waited < Math.min(...limits) - 1, `has waited for ${waited.toFixed(1)} ms`)
        const last = now - (request.waits?.at ?? now)
        const most = Math.max(...limits) + (hasLacked ? UNQUEUED_MS : 0)
        blameIf(last > most + LATE_MS, `has waited for ${last.toFixed(1)} ms`)
        return
      }
      case 'response-timeout': {
        const ms = Math.min(...request.seen.map(({ response }) => response))
        blameIf(now - request.sentOn < ms, `was sent ${(now - request.sentOn).toFixed(1)} ms ago`)
        return
      }
      case 'connect-failed':
      case 'connect-timeout':
        blameIf(failures.length === 0 && !isShort, 'no server has failed')
        blameIf(queue && !isFinal && left.length > 0, `it could wait for ${left}`)
        return
      case 'upstream-closed': {
        const closed = failures.filter(({ how }) => how === 'closed').length
        blameIf(closed === 0 && !request.post, 'no server has closed')
        blameIf(queue && left.length > 0 && mayResend, `it could wait for ${left}`)
        return
      }
      default:
        this.blame(says)
    }
  }

  /** The relay has closed the connection of a client. */
  cut(request: Request | null): void {
    if (request === null || request.state === 'answered' || request.state === 'gone') return
    this.blame(`request ${request.id} gets no answer, its connection is cut`)
    request.state = 'gone'
  }

  leaves(request: Request | null): void {
    if (request === null || request.state === 'answered') return
    this.note(`the client of ${request.id} leaves`)
    request.state = 'gone'
    request.waits = null
  }

  /** Each request has had its answer by now. */
  over(): void {
    for (const { id, state } of this.requests.values())
      if (state === 'open' || state === 'asking') this.blame(`request ${id} gets no answer`)
    const ended = (how: string) => this.#ended.get(how) ?? 0
    if (ended('late') !== this.#late)
      this.blame(`${ended('late')} are counted as late, and ${this.#late} were`)
    if (ended('full') !== this.#full)
      this.blame(`the queue was full ${ended('full')} times, and ${this.#full} were told`)
  }
}
