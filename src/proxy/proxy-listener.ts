import { createServer, type Server, type Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { ConnectionKeeper, DrainCounts } from '../adapter.js'
import { afterReading, type Limit } from '../base/after-reading.js'
import { isIn } from '../checks/address-ranges.js'
import type { ForcedClose, Listener } from '../index.js'
import { type Accepted, acceptWithoutSocket } from '../node/accepted.js'
import { descriptorOf, passedOn, remoteAddressOf, setPassedOn } from '../node/socket-handle.js'
import {
  type ClientOrigin,
  certificateLines,
  certificateOf,
  type Drop,
  type Forward,
  type Http2Bound,
  Relay,
  RelayedConnections,
  type RelayOptions,
} from '../relay/index.js'
import type { ClientLimits, ExceededLimit, IncomingConnection } from './client-limits.js'
import type { ListenerConfig } from './config/listeners.js'
import type { ProxyConfig } from './config/schema.js'
import type { Step } from './leaving.js'
import { ProxyHeaders } from './proxy-header.js'
import { type ClientProtocol, clientProtocol, relayOptions, relaySettings } from './relay-options.js'
import type { Handshakes } from './tls/handshakes.js'
import type { TlsTermination } from './tls/termination.js'

const REFUSAL_LINGER_MS = 2_000
/** How long the last bytes may take on connections that are closed when the drain ends. */
const LINGER_MS = 1_000
/**
 * A connection of a machine that leaves is closed when it had no request for this long. Until then a client that is between two requests gets one more answer,
 * which is the last of its connection; a FIN that crosses the next request would fail that request.
 */
const QUIET_MS = 1_000
const NOT_BUSY: ReadonlySet<string> = new Set(['idle', 'closing', 'handshake'])
const TOO_MANY = [
  'HTTP/1.1 503 Service Unavailable',
  'Content-Type: text/plain',
  'Content-Length: 21',
  'Retry-After: 1',
  'Connection: close',
  '',
  'too-many-connections\n',
].join('\r\n')

/** SETTINGS, and GOAWAY (ENHANCE_YOUR_CALM) before the first stream: the client knows that no request was processed. */
const CALM_DOWN = Buffer.from('000000040000000000' + '000008070000000000' + '000000000000000b', 'hex')

const HTTP2 = 'h2'

/** Returns the names of ALPN for HTTP. */
function protocolsOf({ http2 }: Pick<ClientProtocol, 'http2'>): readonly string[] {
  return http2 ? [HTTP2, 'http/1.1'] : ['http/1.1']
}

const NOWHERE: Forward = { kind: 'upstream', name: '', pick: () => null }

export type RelayWiring = Pick<
  RelayOptions,
  'route' | 'tls' | 'routeByName' | 'destinationByKey' | 'onExchange' | 'onFault' | 'onShortage' | 'pools'
> & {
  /** Returns the route of a whole connection of `client`, an IP address or ''; undefined if the upstream does not exist. */
  forwardOf(upstream: string, client: string): Forward | undefined
  /** The connection of a client ends because of a bound of HTTP/2. */
  onHttp2Bound(listener: string, bound: Http2Bound, client: string): void
  /** A datagram of a UDP listener, or of one of its servers, is dropped. */
  onDrop(listener: string, why: Drop): void
}

/** The relay of one configuration. */
interface ConfiguredRelay {
  readonly relay: Relay
  readonly settings: string
  /** Reports whether a client is in `forwarded.trust`. */
  readonly trusts: (client: string) => boolean
}

/** One listener's connections. A new configuration applies to new connections. */
export class ProxyListener implements ConnectionKeeper {
  readonly server: Server
  readonly #moving: RelayedConnections
  readonly #movingTls: RelayedConnections
  readonly #name: string
  readonly #origins: Readonly<Record<ClientOrigin['scheme'] | 'h2', ClientOrigin>>
  readonly #tls: TlsTermination
  readonly #wiring: RelayWiring
  readonly #clientLimits: ClientLimits
  readonly #onEmpty: () => void
  #forward: string | null
  /** See {@link ListenerConfig.acme}. */
  #acme: string | null = null
  #handshakes: Handshakes | null = null
  #secure = false
  /** {@link ClientCa.id}, or '' if clients are not asked for certificates. */
  #clientCaId = ''
  readonly #headers = new ProxyHeaders()
  /** Reports whether connections from an address begin with a PROXY header; null: none does. */
  #beginsWithHeader: ((address: string) => boolean) | null = null
  #headMs = 0
  /** See {@link Relay.end}. */
  readonly #lastEvent: string
  #current: ConfiguredRelay
  /** Relays of earlier configurations that still have connections. */
  #former: Relay[] = []
  #lingering = 0
  /** See {@link leave}. */
  #leaves = false
  /** Ends the connections that had no request since their end was announced. */
  #endQuiet: Limit | null = null
  readonly #ownSockets = new WeakSet<Socket>()
  #emptyWaiters: (() => void)[] = []

  /** Calls `onEmpty` whenever the last connection has closed. */
  constructor(
    { name, forward }: ListenerConfig,
    config: ProxyConfig,
    wiring: RelayWiring,
    tls: TlsTermination,
    { clientLimits, onEmpty }: { clientLimits: ClientLimits; onEmpty: () => void },
  ) {
    this.#onEmpty = onEmpty
    this.#name = name
    this.#origins = {
      http: { listener: name, scheme: 'http', http2: false },
      https: { listener: name, scheme: 'https', http2: false },
      h2: { listener: name, scheme: 'https', http2: true },
    }
    this.#tls = tls
    this.#forward = forward
    this.#wiring = wiring
    this.#clientLimits = clientLimits
    this.#lastEvent = config.drain.lastEvent
    this.#current = this.#makeRelay(config)
    this.server = createServer(
      { pauseOnConnect: true, allowHalfOpen: true, noDelay: true, keepAlive: true },
      socket => this.#acceptConnection(socket),
    )
    acceptWithoutSocket(this.server, connection => this.#acceptWithoutSocket(connection))
    const moving = { listener: name, relays: () => this.#allRelays(), relay: () => this.#current.relay }
    this.#moving = new RelayedConnections(moving)
    this.#movingTls = new RelayedConnections({ ...moving, secure: true })
    this.#configureProtocol(config)
  }

  serveOn(listener: Listener): void {
    listener.serve(this.server, { keeper: this })
  }

  get scheme(): string {
    if (this.#forward !== null) return this.#secure ? 'tls' : 'tcp'
    return this.#secure ? 'https' : 'http'
  }

  get moving(): readonly RelayedConnections[] {
    return this.#tls.carrier === null ? [this.#moving] : [this.#moving, this.#movingTls]
  }

  configure(config: ProxyConfig): void {
    this.#configureProtocol(config)
    const before = this.#current
    if (before.settings === relaySettings(config, clientProtocol(config, this.#name))) return
    this.#current = this.#makeRelay(config)
    // The clients of the former relay were verified by other CAs, or not at all.
    if (before.relay.clientCa !== this.#current.relay.clientCa) before.relay.drainForGood()
    this.#former.push(before.relay)
    this.#pruneFormer()
  }

  get connections(): number {
    let sum = (this.#handshakes?.size ?? 0) + this.#headers.size
    for (const relay of this.#allRelays()) sum += relay.size
    return sum
  }

  kinds(): Record<string, number> {
    const sum: Record<string, number> = this.#handshakes === null ? {} : { handshake: this.#handshakes.size }
    for (const relay of this.#allRelays())
      for (const [kind, count] of Object.entries(relay.kinds())) sum[kind] = (sum[kind] ?? 0) + count
    return sum
  }

  announce(): void {
    for (const relay of this.#allRelays()) relay.drain()
  }

  resume(): void {
    for (const relay of this.#allRelays()) relay.resume()
  }

  /**
   * Lets the connections leave, also those that come meanwhile, as far as the step says; or lets them stay again. The listener accepts to the end: clients
   * that have begun a handshake, or a request, get their answer.
   */
  leave(step: Step): void {
    const leaves = step === 'leaving' || step === 'ended'
    if (leaves) {
      this.announce()
      const endQuiet = () => {
        this.#endQuiet = null
        this.endIdle()
      }
      this.#endQuiet ??= afterReading(QUIET_MS, endQuiet, { unref: true })
      if (step === 'ended')
        for (const relay of this.#allRelays()) relay.end(this.#lastEvent, LINGER_MS, { late: true })
    } else if (this.#leaves) {
      this.#endQuiet?.clear()
      this.#endQuiet = null
      this.resume()
    }
    this.#leaves = leaves
  }

  endIdle(): void {
    for (const relay of this.#allRelays()) relay.closeIdle()
  }

  emptied(): Promise<void> {
    return new Promise(resolve => {
      this.#emptyWaiters.push(resolve)
      this.#pruneFormer()
    })
  }

  remaining(): DrainCounts {
    return this.#countsOf([...this.#allRelays()].flatMap(relay => relay.remaining()))
  }

  cut(): DrainCounts {
    const closed = [...this.#allRelays()].flatMap(relay => relay.end(this.#lastEvent, LINGER_MS))
    const counts = this.#countsOf(closed)
    this.#handshakes?.cut()
    this.#headers.cut()
    return counts
  }

  #countsOf(closed: ForcedClose[]): DrainCounts {
    const handshaking = this.#handshakes?.size ?? 0
    if (handshaking > 0) closed.push({ kind: 'tls', reason: 'handshake', count: handshaking })
    let idle = 0
    let busy = 0
    for (const { reason, count } of closed) {
      if (NOT_BUSY.has(reason)) idle += count
      else busy += count
    }
    return { idle, busy, closed }
  }

  /** Closes all connections at once. The listener can still accept new ones. */
  closeConnections(): void {
    for (const relay of this.#allRelays()) relay.close()
    this.#handshakes?.cut()
    this.#headers.cut()
  }

  /** As {@link closeConnections}, for a listener that accepts no more connections. */
  close(): void {
    this.closeConnections()
    if (this.#handshakes !== null) this.#tls.release(this.#handshakes)
  }

  *#allRelays(): Generator<Relay> {
    yield this.#current.relay
    yield* this.#former
  }

  #makeRelay(config: ProxyConfig): ConfiguredRelay {
    const protocol = clientProtocol(config, this.#name)
    const counted = config.limits.connectionsPerClient === null ? {} : { clients: this.#clientLimits.tally }
    const options = relayOptions(config, protocol)
    const relay = new Relay({
      ...this.#wiring,
      ...counted,
      ...options,
      onEmpty: () => this.#pruneFormer(),
      onHttp2Bound: (bound, client) => this.#wiring.onHttp2Bound(this.#name, bound, client),
    })
    const trusts = options.forwarded?.trusts ?? (() => false)
    return { relay, settings: relaySettings(config, protocol), trusts }
  }

  #configureProtocol(config: ProxyConfig): void {
    const { listeners, timeouts } = config
    const own = listeners.find(({ name }) => name === this.#name)
    if (own === undefined) return
    this.#forward = own.forward
    this.#acme = own.acme
    this.#secure = own.tls
    this.#clientCaId = own.clientCa?.id ?? ''
    this.#beginsWithHeader = own.proxyProtocol.length === 0 ? null : isIn(own.proxyProtocol)
    this.#headMs = timeouts.head
    const protocols = own.forward === null ? protocolsOf(own) : []
    const onChallenge =
      own.acme === null ? null : (raw: Socket, hello: Buffer) => this.#acceptChallenge(raw, hello)
    if (this.#handshakes !== null) {
      this.#handshakes.protocols = protocols
      this.#handshakes.clientCa = own.clientCa
      this.#handshakes.onChallenge = onChallenge
    } else if (own.tls) {
      this.#handshakes = this.#tls.handshakes({
        protocols,
        clientCa: own.clientCa,
        onChallenge,
        onSecure: (socket, raw, asked) => this.#acceptSecure(socket, raw, asked),
        onEnd: () => this.#pruneFormer(),
      })
    }
  }

  /** Accepts a connection of this process to itself, without limits: a proxy at its limit must still pass its health check. */
  acceptOwn(socket: Socket): void {
    this.#ownSockets.add(socket)
    this.#startConnection(socket)
  }

  #acceptConnection(socket: Socket): void {
    const sender = remoteAddressOf(socket)
    if (this.#beginsWithHeader?.(sender) !== true) {
      this.#startConnection(socket)
      return
    }
    const failed = (why: string | null) => {
      if (why !== null) this.#clientLimits.warnNoHeader(this.#name, sender, why)
      this.#pruneFormer()
    }
    this.#headers.read(socket, this.#headMs, early => this.#startConnection(socket, early), failed)
  }

  #startConnection(socket: Socket, early?: Buffer): void {
    const handshakes = this.#secure ? this.#handshakes : null
    if (handshakes === null) {
      this.#accept(socket, this.#origins.http, socket, early)
      return
    }
    if (early !== undefined && early.length > 0) socket.unshift(early)
    const excess = this.#ownSockets.has(socket) ? null : this.#excess(incomingOver(socket))
    // Up to `maxLingering` clients that will be refused get a handshake first, so that they can be sent a 503.
    if (excess === null || (excess !== 'descriptors' && handshakes.size < this.#clientLimits.maxLingering)) {
      handshakes.start(socket, this.#ownSockets.has(socket))
    } else {
      this.#clientLimits.warnRefused(this.#name, excess, socket.remoteAddress)
      socket.destroy()
    }
  }

  #excess(arriving: IncomingConnection): ExceededLimit | null {
    return this.#clientLimits.exceededLimit(arriving, this.#current.trusts)
  }

  /** Accepts a connection without TLS and without a `net.Socket`. Returns false if Node must make the socket, also in order to refuse the client. */
  #acceptWithoutSocket(connection: Accepted): boolean {
    if (this.#secure || this.#beginsWithHeader?.(connection.remoteAddress)) return false
    if (this.#excess(connection) !== null) return false
    return this.#current.relay.acceptWithoutSocket(
      connection,
      this.#origins.http,
      this.#forwardRoute(connection),
    )
  }

  #acceptSecure(socket: TLSSocket, raw: Socket | undefined, asked: string): void {
    const origin = this.#origins[socket.alpnProtocol === HTTP2 ? 'h2' : 'https']
    if (this.#clientCaId === '') {
      this.#accept(socket, origin, raw)
      return
    }
    // A handshake can begin before a reload that changes the CAs, and end after it.
    const shown = asked === this.#clientCaId ? certificateOf(socket) : undefined
    this.#accept(socket, { ...origin, certificate: certificateLines(shown) }, raw)
  }

  /** Passes the connection of an authority on as it is: the client of ACME at the other end has the certificate that the authority asks for. */
  #acceptChallenge(raw: Socket, hello: Buffer): void {
    const arriving = incomingOver(raw)
    const excess = this.#excess(arriving)
    if (excess !== null) {
      this.#clientLimits.warnRefused(this.#name, excess, raw.remoteAddress)
      raw.destroy()
      return
    }
    this.#current.relay.accept(raw, this.#origins.http, this.#routeTo(this.#acme, arriving), hello)
  }

  /** `raw` is the socket below TLS, if known. */
  #accept(socket: Socket, origin: ClientOrigin, raw: Socket | undefined = socket, early?: Buffer): void {
    const addresses = raw === undefined || raw === socket ? undefined : passedOn(raw)
    if (addresses !== undefined) setPassedOn(socket, addresses)
    const arriving = incomingOver(socket)
    const isOwn = raw !== undefined && this.#ownSockets.has(raw)
    const excess = isOwn ? null : this.#excess(arriving)
    if (excess !== null) {
      this.#refuseConnection(socket, excess, origin.http2 === true ? CALM_DOWN : TOO_MANY)
      return
    }
    this.#current.relay.accept(socket, origin, this.#forwardRoute(arriving), early)
  }

  /** The route of whole connections; undefined for HTTP. */
  #forwardRoute(client: Pick<IncomingConnection, 'remoteAddress'>): Forward | undefined {
    return this.#forward === null ? undefined : this.#routeTo(this.#forward, client)
  }

  /** If the upstream no longer exists, the relay resets the connection, and reports it. */
  #routeTo(upstream: string | null, { remoteAddress }: Pick<IncomingConnection, 'remoteAddress'>): Forward {
    return (upstream === null ? undefined : this.#wiring.forwardOf(upstream, remoteAddress)) ?? NOWHERE
  }

  #refuseConnection(socket: Socket, excess: ExceededLimit, response: string | Buffer): void {
    this.#clientLimits.warnRefused(this.#name, excess, socket.remoteAddress)
    socket.on('error', () => {})
    const mayRespond = excess !== 'descriptors' && this.#lingering < this.#clientLimits.maxLingering
    if (this.#forward !== null || !mayRespond) {
      socket.destroy()
      return
    }
    this.#lingering++
    const timer = setTimeout(() => socket.destroy(), REFUSAL_LINGER_MS)
    socket.on('close', () => {
      clearTimeout(timer)
      this.#lingering--
    })
    // Discards what the client still sends: unread bytes would turn the close into RST, which can destroy the response.
    socket.end(response)
    socket.resume()
  }

  /** Closes earlier relays without connections, and notifies the waiters if no connection is left at all. */
  #pruneFormer(): void {
    this.#former = this.#former.filter(relay => {
      if (relay.size > 0) return true
      relay.close()
      return false
    })
    if (this.connections > 0) return
    this.#onEmpty()
    for (const resolve of this.#emptyWaiters.splice(0)) resolve()
  }
}

function incomingOver(socket: Socket): IncomingConnection {
  return { descriptor: descriptorOf(socket), remoteAddress: remoteAddressOf(socket) }
}
