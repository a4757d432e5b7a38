import type { HeadWriter } from '../http1/index.js'
import { localEnd } from '../kernel/index.js'
import { plainAddress } from '../node/socket-handle.js'
import type { ByteStream, StreamOwner } from './byte-stream.js'
import { concat, NO_BYTES } from './bytes.js'
import type { Forward, RequestQueue, Respond } from './decision.js'
import type { Destination, DialFailure, ServerFailure } from './destination.js'
import type { ExchangeFacts, ExchangeSide } from './exchange-facts.js'
import { type ProxyVersion, proxyHeader } from './proxy-protocol.js'
import { callSafely, type RelayContext } from './relay-context.js'
import { type Shortage, shortageOf } from './shortage.js'
import { tlsFailureOf } from './tls-failure.js'
import { WaitingStream } from './waiting-stream.js'

interface DispatchExchange extends StreamOwner {
  readonly facts: ExchangeFacts
  upstream: ByteStream | null
  fail(status: number, reason: string, headers?: Respond['headers']): void
}

/** A request passes over this many servers at their limit of connections: each look at one costs time in proportion to all. */
const MOST_FULL = 100

/** For a client that comes again. */
const RETRY_AFTER: Respond['headers'] = [['Retry-After', '1']]

/** Chooses a server for an exchange and sends the request over an idle or a new connection. If connecting fails, tries the next server. */
export class Dispatch {
  /** Null before {@link chooseServer}, and for an imported exchange whose route does not exist in this process. */
  route: Forward | null = null
  destination: Destination | null = null
  #tried: Destination[] | null = null
  /** How many of these were at their limit of connections. */
  #full = 0
  /** The servers that could not be used. */
  #failed: Destination[] | null = null
  /** The request was sent over a kept connection, which closed, and is sent to the same server again. */
  #isRepeated = false
  /** Another server got the request, because the first one may have died of it: no third one gets it. */
  #hasLeft = false
  /** No descriptor was free: this exchange closed all idle connections to servers and dialled again, which it does only once. */
  #redialled = false
  /** This exchange has waited for a connection of another process, which it does only once. */
  #waited = false
  /** The queue in which it has waited: a reload may have removed the queue from the route since. */
  #queue: RequestQueue | null = null
  /** The times of its wait in a queue, also if it waits there again. */
  #wait: { readonly arrived: number; readonly until: number } | null = null
  /** The exchange comes from another process: if it has waited there, it gets a place in a full queue. */
  #restored = false
  /** How long it may still wait then, in milliseconds; null: as long as any other. */
  #restMs: number | null = null
  #retryHead: HeadWriter | null = null
  /** The length of the PROXY header that was written first on the connection that is being established. */
  #headerBytes = 0
  readonly #relay: RelayContext
  readonly #side: ExchangeSide
  readonly #exchange: DispatchExchange

  constructor(relay: RelayContext, side: ExchangeSide, exchange: DispatchExchange) {
    this.#relay = relay
    this.#side = side
    this.#exchange = exchange
  }

  /** `restMs`: what is left of the time limit of the other process. */
  restore(restMs: number | null): void {
    this.#restored = true
    this.#restMs = restMs
    const { route, destination } = this.#exchange.facts
    this.route = this.#relay.routeByName?.(route) ?? null
    this.destination = this.#relay.destinationByKey?.(destination) ?? null
  }

  /** Chooses the first server of the route. If the route has no server, responds with 503 and returns null. */
  chooseServer(route: Forward | null = this.route): Destination | null {
    this.route = route
    if (route !== null) this.#exchange.facts.route = route.name
    const destination = this.#pickServer()
    this.#setDestination(destination)
    if (destination === null) this.#exchange.fail(503, 'no-server')
    return destination
  }

  /** Sends the first bytes of the request: `bytes[from, to)`, then `more[moreFrom, moreTo)`. `now`: `performance.now()`, if the caller has just read it. */
  send(
    bytes: Buffer,
    from = 0,
    to: number = bytes.length,
    more: Buffer = NO_BYTES,
    moreFrom = 0,
    moreTo: number = more.length,
    now?: number,
  ): void {
    const stream = this.#connect(false, now)
    if (stream === null) return
    stream.write(bytes, from, to, more, moreFrom, moreTo)
    this.#onSent(stream)
  }

  keepForRetry(head: HeadWriter): void {
    this.#retryHead = head
  }

  /** The request that {@link retry} sends; '' if the relay must not repeat the request. */
  get resend(): string {
    return this.#retryHead?.toString() ?? this.#exchange.facts.resend
  }

  dropRetry(): void {
    this.#exchange.facts.resend = ''
    this.#retryHead?.release()
    this.#retryHead = null
  }

  /**
   * Sends the request again over a new connection, because the connection closed before the response: to the same server if the connection was reused, because
   * servers close idle connections; otherwise the server has died, and one other server gets the request. Returns false if the request must not be repeated.
   */
  retry(failure: ServerFailure, error: Error | null): boolean {
    const { resend } = this
    const { reused, heard } = this.#exchange.facts
    if (heard || resend === '' || this.destination === null) return false
    if (reused) this.#repeatOn(this.destination)
    else if (!this.#leaveDeadServer(failure, error)) return false
    const stream = this.#connect(true, undefined, reused)
    if (stream === null) return true
    stream.write(resend)
    this.#onSent(stream)
    return true
  }

  /** A reload may have changed the limit of the server since the request came. */
  #repeatOn(destination: Destination): void {
    this.#isRepeated = true
    this.#setDestination(this.#relay.destinationByKey?.(destination.key) ?? destination)
  }

  /** Chooses another server, and forgets the request so that no third one gets it: it may have killed the first. Returns false if there is none. */
  #leaveDeadServer(failure: ServerFailure, error: Error | null): boolean {
    const dead = this.destination!
    if (this.#hasLeft) return false
    this.#forgetFull()
    const next = this.#nextServer()
    if (next === null) return false
    if (!callSafely(this.#relay, () => this.route?.mayResend?.() ?? true)) {
      this.#passOver(next)
      return false
    }
    callSafely(this.#relay, () => dead.failed?.(failure, error))
    this.#hasFailed(dead)
    this.#hasLeft = true
    this.#isRepeated = false
    this.dropRetry()
    this.#setDestination(next)
    return true
  }

  #onSent(stream: ByteStream): void {
    if (this.#isTunnel() && this.#side.clientEnded) stream.end()
    this.#side.arm()
  }

  // No private getter: V8 calls its runtime for each use of one.
  #isTunnel(): boolean {
    return this.#exchange.facts.phase === 'tunnel'
  }

  /**
   * Connects to the chosen server, or to the next one if that fails. Fails the exchange and returns null if no server is left. With `fresh`, and for tunnels,
   * reuses no connection. `again`: see {@link UpstreamPools.acquire}.
   */
  #connect(fresh: boolean, now?: number, again = false): ByteStream | null {
    const exchange = this.#exchange
    const { facts } = exchange
    let stream: ByteStream | null
    try {
      do
        stream = this.#relay.pools.acquire(this.destination!, exchange, fresh || this.#isTunnel(), now, again)
      while (stream !== null && this.#isStale(stream))
    } catch (error) {
      return this.#connectFailed(shortageOf(error), tlsFailureOf(error as Error) ?? 'connect-failed')
    }
    if (stream === null) return this.#connectToNext(503, 'servers-full')
    facts.attempts++
    exchange.upstream = stream
    this.#headerBytes = 0
    const { proxyProtocol } = this.destination!
    if (proxyProtocol !== undefined && stream.connecting) this.#writeHeader(stream, proxyProtocol)
    facts.reused = !stream.connecting
    if (facts.trail !== null && stream.connecting) facts.trail.since ||= performance.now()
    return stream
  }

  #writeHeader(stream: ByteStream, version: ProxyVersion): void {
    const { client, server } = this.#side
    const end = server ?? localEnd(client.descriptor)
    const { remoteAddress, remotePort = 0 } = client
    const header = proxyHeader(
      version,
      end && {
        client: remoteAddress,
        clientPort: remotePort,
        server: plainAddress(end.address),
        serverPort: end.port,
      },
    )
    this.#headerBytes = header.length
    stream.write(header)
  }

  /** Takes the bytes of the client back from a connection that is not established. */
  takeUnsent(stream: ByteStream): Buffer {
    if (stream instanceof WaitingStream) this.#exchange.facts.trail?.waited()
    const bytes = concat(stream.takeUnsent())
    return this.#headerBytes === 0 ? bytes : bytes.subarray(this.#headerBytes)
  }

  /**
   * Closes a reused connection on which something has arrived: its server has closed it, or has sent bytes that the next response would begin with. Asks the
   * kernel once more for a request that {@link retry} cannot send again, because the check is a system call.
   */
  #isStale(stream: ByteStream): boolean {
    if (stream.connecting) return false
    const repeats = this.#retryHead !== null || this.#exchange.facts.resend !== ''
    if (repeats ? stream.untouched : stream.untouchedNow) return false
    stream.destroy()
    return true
  }

  /** Connecting has failed: sends the queued bytes to the next server. */
  retryElsewhere(failure: DialFailure, error: Error | null = null): void {
    const stream = this.#exchange.upstream!
    if (stream instanceof WaitingStream) {
      this.#endWaiting(stream, this.#queue === null ? this.#pickAgain() : null)
      return
    }
    const bytes = this.takeUnsent(stream)
    stream.destroy()
    this.#exchange.upstream = null
    const shortage = shortageOf(error)
    if (shortage === null) callSafely(this.#relay, () => this.destination!.failed?.(failure, error))
    const next = this.#connectFailed(shortage, failure)
    if (next === null) return
    next.write(bytes)
    this.#onSent(next)
  }

  #setDestination(destination: Destination | null): void {
    this.destination = destination
    if (destination !== null) this.#exchange.facts.destination = destination.key
  }

  #pickServer(): Destination | null {
    try {
      return this.route?.pick(this.#tried ?? [], this.#full) ?? null
    } catch (error) {
      this.#relay.onFault?.(error)
      return null
    }
  }

  /** Returns a server that this exchange has not tried; null if there is none, or too many were tried. */
  #nextServer(): Destination | null {
    const tried = (this.#tried ??= [])
    tried.push(this.destination!)
    const mayTry = tried.length - this.#full < this.#relay.limits.attempts && this.#full < MOST_FULL
    const next = mayTry ? this.#pickServer() : null
    return next === null || tried.includes(next) ? null : next
  }

  /** Connects to the next server; no byte of the request may have been sent. If no server is left, fails the exchange with `status` and `reason`. */
  #connectToNext(status: number, reason: string): ByteStream | null {
    if (reason === 'servers-full') {
      this.#full++
      this.#passOver(this.destination!, this.#isRepeated)
    }
    const queue = this.#full > 0 ? this.route?.queue : undefined
    // The next server is usable no more when its trial has begun.
    const usable = queue && this.#serversOf(queue)
    const next = this.#nextServer()
    // A server that is up is only full: the request waits for it, and tries none that is down.
    const isLast = next === null || usable?.includes(next) === false
    if (isLast) {
      if (next !== null) this.#passOver(next)
      if (reason === 'servers-full' || queue !== undefined) return this.#awaitServer(status, reason)
      this.#exchange.fail(status, reason)
      return null
    }
    this.#setDestination(next)
    return this.#connect(false)
  }

  /** Returns a stream that waits for a connection to a server; null if there is none to wait for (`status`, `reason`) or no place to wait, and the exchange has failed. */
  #awaitServer(status: number, reason: string): ByteStream | null {
    const queue = this.route?.queue
    const stream = queue !== undefined ? this.#enqueue(queue) : this.#waited ? null : this.#waitForOthers()
    this.#waited = true
    if (stream === 'queue-full') this.#exchange.fail(503, stream, RETRY_AFTER)
    else if (stream === null) this.#exchange.fail(status, reason, status === 503 ? RETRY_AFTER : [])
    if (stream === null || stream === 'queue-full') return null
    this.#exchange.upstream = stream
    this.#headerBytes = 0
    this.#exchange.facts.reused = false
    const { trail } = this.#exchange.facts
    if (trail !== null) trail.since = performance.now()
    return stream
  }

  /** Waits until another process of the service closes a connection to a server, or until earlier requests have one. Returns null if this process has all connections. */
  #waitForOthers(): ByteStream | null {
    this.#queue = null
    const proceed = () =>
      this.#side.contain(() => {
        this.#endWaiting(stream!, this.#pickAgain())
        this.#side.settle()
      })
    const full = this.#tried?.filter(server => !this.#failed?.includes(server)) ?? []
    let stream: ByteStream | null = null
    while (stream === null && full.length > 0) stream = this.#relay.pools.wait(full.pop()!, proceed)
    return stream
  }

  /** The server for which the request has waited may be drained or without a limit by now, and another one free. */
  #pickAgain(): Destination | null {
    this.#forgetFull()
    return this.#pickServer()
  }

  /** Returns null if no server is left for which the request could wait. */
  #enqueue(queue: RequestQueue): ByteStream | 'queue-full' | null {
    if (queue.waiting >= queue.most && !this.#restored && this.#wait === null) {
      queue.ended('full')
      return 'queue-full'
    }
    const now = performance.now()
    this.#wait ??= { arrived: now, until: now + (this.#restMs ?? queue.ms) }
    const servers = this.#serversOf(queue)
    if (servers.length === 0) return null
    this.#queue = queue
    queue.waiting++
    const proceed = ({ key }: Destination) =>
      this.#side.contain(() => {
        const now = this.#serversOf(queue)
        const server = now.find(each => each.key === key)
        // Only if none is left at all, it goes to the one for which it has waited.
        if (server === undefined && queue.servers().length > 0) this.#waitForOthersOf(queue, stream)
        else {
          queue.ended('served')
          if (server !== undefined) queue.taken?.(server)
          this.#endWaiting(stream, server ?? servers.find(each => each.key === key)!)
        }
        this.#side.settle()
      })
    const stream = this.#relay.pools.queue(servers, this.#wait, proceed, () => {
      queue.waiting--
      leave()
    })
    const leave = queue.watch(() => this.#side.contain(() => this.#lookAgain(queue, stream, servers)))
    return stream
  }

  /** Returns the servers for which the request may wait. */
  #serversOf(queue: RequestQueue): readonly Destination[] {
    return queue.servers(this.#failed === null ? undefined : new Set(this.#failed.map(({ key }) => key)))
  }

  /** Waits for the servers that there are now, at the same place, if they or their limits are others than `before`. */
  #lookAgain(queue: RequestQueue, stream: ByteStream, before: readonly Destination[]): void {
    if (!stream.alive) return
    const now = this.#serversOf(queue)
    const isSame = (each: Destination, n: number) =>
      each.key === before[n]?.key && each.connections === before[n].connections
    if (now.length === 0 || (now.length === before.length && now.every(isSame))) return
    this.#waitForOthersOf(queue, stream)
    this.#side.settle()
  }

  /** Waits for other servers: the one that has become free gets no more requests, for example because it was drained, or there are others now. */
  #waitForOthersOf(queue: RequestQueue, stream: ByteStream): void {
    const bytes = concat(stream.takeUnsent())
    stream.destroy()
    const next = this.#enqueue(queue)
    if (typeof next === 'object' && next !== null) {
      this.#exchange.upstream = next
      next.write(bytes)
    } else this.#exchange.fail(503, 'no-server')
  }

  /** `server`: null if the time is over. */
  #endWaiting(stream: ByteStream, server: Destination | null): void {
    const bytes = concat(stream.takeUnsent())
    stream.destroy()
    this.#exchange.upstream = null
    this.#exchange.facts.trail?.waited()
    if (server === null) {
      this.#queue?.ended('late')
      this.#exchange.fail(503, this.#queue === null ? 'servers-full' : 'queue-timeout', RETRY_AFTER)
      return
    }
    this.#forgetFull()
    this.#setDestination(server)
    const next = this.#connect(false)
    if (next === null) return
    next.write(bytes)
    this.#onSent(next)
  }

  /** The server was picked, and gets nothing. */
  #passOver(server: Destination, isLate = false): void {
    callSafely(this.#relay, () => server.passedOver?.(isLate))
  }

  /** A server that was at its limit may be free by now. */
  #forgetFull(): void {
    this.#tried = this.#failed?.slice() ?? null
    this.#full = 0
  }

  #hasFailed(server: Destination): void {
    this.#failed ??= []
    this.#failed.push(server)
  }

  /** Dials the server again if this process lacked a descriptor, otherwise tries the next server. `shortage`: null if the server is at fault. */
  #connectFailed(shortage: Shortage | null, failure: DialFailure): ByteStream | null {
    if (shortage === null) {
      const status = failure === 'connect-timeout' ? 504 : 502
      this.#forgetFull()
      this.#hasFailed(this.destination!)
      if (this.#isRepeated && this.#hasLeft) {
        this.#exchange.fail(status, failure)
        return null
      }
      this.#hasLeft ||= this.#isRepeated
      this.#isRepeated = false
      return this.#connectToNext(status, failure)
    }
    callSafely(this.#relay, () => this.#relay.onShortage?.(shortage, this.#exchange.facts.destination))
    if (shortage === 'no-ports') {
      this.#passOver(this.destination!, true)
      // The request waits for no server that it cannot reach.
      this.#hasFailed(this.destination!)
      return this.#connectToNext(503, shortage)
    }
    if (this.#redialled) {
      this.#exchange.fail(503, shortage)
      return null
    }
    // Closing the idle connections to all servers frees descriptors.
    this.#redialled = true
    this.#relay.pools.clear()
    return this.#connect(true)
  }
}
