import { BlockList, createServer, type Server, type Socket } from 'node:net'
import type { ConnectionKeeper, DrainCounts } from '../adapter.js'
import { isIPv6 } from '../base/lazy.js'
import type { ForcedClose } from '../index.js'
import { type Accepted, acceptWithoutSocket } from '../node/accepted.js'
import { addressOf, descriptorOf } from '../node/socket-handle.js'
import {
  type ClientOrigin,
  type Forward,
  Relay,
  RelayedConnections,
  type RelayOptions,
} from '../relay/index.js'
import type { ClientLimits, ExceededLimit, IncomingConnection } from './client-limits.js'
import type { ListenerConfig, ProxyConfig } from './config/config.js'
import { relayOptions, relaySettings } from './relay-options.js'
import type { Handshakes } from './tls/handshakes.js'
import type { TlsTermination } from './tls/termination.js'

const REFUSAL_LINGER_MS = 2_000
/** How long the last bytes may take on connections that are closed when the drain ends. */
const LINGER_MS = 1_000
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

const NOWHERE: Forward = { kind: 'upstream', name: '', pick: () => null }

export type RelayWiring = Pick<
  RelayOptions,
  'route' | 'routeByName' | 'destinationByKey' | 'onExchange' | 'onFault' | 'onShortage' | 'pools'
>

/** The relays of one configuration. `trusted` serves the clients of `forwarded.trust`, whose forwarding headers are kept. */
interface Relays {
  settings: string
  plain: Relay
  trusted: Relay | null
  trust: BlockList
}

/** One listener's connections. A new configuration applies to new connections. */
export class ProxyListener implements ConnectionKeeper {
  readonly server: Server
  readonly moving: RelayedConnections
  readonly #name: string
  readonly #origins: Readonly<Record<ClientOrigin['scheme'], ClientOrigin>>
  readonly #tls: TlsTermination
  readonly #wiring: RelayWiring
  readonly #clientLimits: ClientLimits
  readonly #onEmpty: () => void
  #forward: string | null
  #handshakes: Handshakes | null = null
  #secure = false
  /** See {@link Relay.end}. */
  readonly #lastEvent: string
  #relays: Relays
  /** Relays of earlier configurations that still have connections. */
  #former: Relay[] = []
  #lingering = 0
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
    this.#origins = { http: { listener: name, scheme: 'http' }, https: { listener: name, scheme: 'https' } }
    this.#tls = tls
    this.#forward = forward
    this.#wiring = wiring
    this.#clientLimits = clientLimits
    this.#lastEvent = config.drain.lastEvent
    this.#relays = this.#makeRelays(config)
    this.server = createServer({ pauseOnConnect: true, allowHalfOpen: true, noDelay: true }, socket =>
      this.#startConnection(socket),
    )
    acceptWithoutSocket(this.server, connection => this.#acceptWithoutSocket(connection))
    this.moving = new RelayedConnections({
      listener: name,
      relays: () => this.#allRelays(),
      relayFor: client => this.#relayFor(client),
    })
    this.#configureProtocol(config)
  }

  get scheme(): string {
    if (this.#forward !== null) return this.#secure ? 'tls' : 'tcp'
    return this.#secure ? 'https' : 'http'
  }

  configure(config: ProxyConfig): void {
    this.#configureProtocol(config)
    const before = this.#relays
    if (before.settings === relaySettings(config, this.#halfCloseOf(config))) return
    this.#relays = this.#makeRelays(config)
    this.#former.push(before.plain)
    if (before.trusted !== null) this.#former.push(before.trusted)
    this.#pruneFormer()
  }

  get connections(): number {
    let sum = this.#handshakes?.size ?? 0
    for (const relay of this.#allRelays()) sum += relay.size
    return sum
  }

  kinds(): Record<string, number> {
    const sum: Record<string, number> = this.#handshakes === null ? {} : { handshake: this.#handshakes.size }
    for (const relay of this.#allRelays())
      for (const [kind, count] of Object.entries(relay.counts())) sum[kind] = (sum[kind] ?? 0) + count
    return sum
  }

  announce(): void {
    for (const relay of this.#allRelays()) relay.drain()
  }

  resume(): void {
    for (const relay of this.#allRelays()) relay.resume()
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

  cut(): DrainCounts {
    const closed: ForcedClose[] = [...this.#allRelays()].flatMap(relay =>
      relay.end(this.#lastEvent, LINGER_MS),
    )
    const handshaking = this.#handshakes?.size ?? 0
    if (handshaking > 0) closed.push({ kind: 'tls', reason: 'handshake', count: handshaking })
    this.#handshakes?.cut()
    let idle = 0
    let busy = 0
    for (const { reason, count } of closed) {
      if (NOT_BUSY.has(reason)) idle += count
      else busy += count
    }
    return { idle, busy, closed }
  }

  close(): void {
    for (const relay of this.#allRelays()) relay.close()
    if (this.#handshakes === null) return
    this.#handshakes.cut()
    this.#tls.release(this.#handshakes)
  }

  *#allRelays(): Generator<Relay> {
    yield this.#relays.plain
    if (this.#relays.trusted !== null) yield this.#relays.trusted
    yield* this.#former
  }

  #makeRelays(config: ProxyConfig): Relays {
    const trust = new BlockList()
    for (const { address, prefix, family } of config.forwarded.trust) trust.addSubnet(address, prefix, family)
    const halfClose = this.#halfCloseOf(config)
    const counted = config.limits.connectionsPerClient === null ? {} : { clients: this.#clientLimits.tally }
    const relay = (trusted: boolean) =>
      new Relay({
        ...this.#wiring,
        ...counted,
        ...relayOptions(config, { trusted, halfClose }),
        onEmpty: () => this.#pruneFormer(),
      })
    const trusted = config.forwarded.trust.length > 0 ? relay(true) : null
    return { settings: relaySettings(config, halfClose), plain: relay(false), trusted, trust }
  }

  #halfCloseOf({ listeners }: ProxyConfig): boolean {
    return listeners.find(({ name }) => name === this.#name)?.halfClose ?? false
  }

  #configureProtocol({ listeners }: ProxyConfig): void {
    const own = listeners.find(({ name }) => name === this.#name)
    if (own === undefined) return
    this.#forward = own.forward
    this.#secure = own.tls
    if (this.#handshakes !== null) this.#handshakes.http = own.forward === null
    else if (own.tls) {
      this.#handshakes = this.#tls.handshakes({
        http: own.forward === null,
        onSecure: (socket, raw) => this.#accept(socket, 'https', raw),
        onEnd: () => this.#pruneFormer(),
      })
    }
  }

  /** Accepts a connection of this process to itself, without limits: a proxy at its limit must still pass its health check. */
  acceptOwn(socket: Socket): void {
    this.#ownSockets.add(socket)
    this.#startConnection(socket)
  }

  #startConnection(socket: Socket): void {
    const handshakes = this.#secure ? this.#handshakes : null
    if (handshakes === null) {
      this.#accept(socket, 'http')
      return
    }
    const excess = this.#ownSockets.has(socket) ? null : this.#excess(incomingOver(socket))
    // Up to `maxLingering` clients that will be refused get a handshake first, so that they can be sent a 503.
    if (excess === null || (excess !== 'descriptors' && handshakes.size < this.#clientLimits.maxLingering)) {
      handshakes.start(socket)
    } else {
      this.#clientLimits.warnRefused(this.#name, excess, socket.remoteAddress)
      socket.destroy()
    }
  }

  #excess(arriving: IncomingConnection): ExceededLimit | null {
    const { trusted, trust } = this.#relays
    return this.#clientLimits.exceededLimit(
      arriving,
      trusted !== null && isTrusted(trust, arriving.remoteAddress),
    )
  }

  /** Accepts a connection without TLS and without a `net.Socket`. Returns false if Node must make the socket, also in order to refuse the client. */
  #acceptWithoutSocket(connection: Accepted): boolean {
    if (this.#secure || this.#excess(connection) !== null) return false
    const { relay, route } = this.#destinationOf(connection.remoteAddress)
    return relay.acceptWithoutSocket(connection, this.#origins.http, route)
  }

  /** `raw` is the socket below TLS, if known. */
  #accept(socket: Socket, scheme: ClientOrigin['scheme'], raw: Socket | undefined = socket): void {
    const arriving = incomingOver(socket)
    const isOwn = raw !== undefined && this.#ownSockets.has(raw)
    const excess = isOwn ? null : this.#excess(arriving)
    if (excess !== null) {
      this.#refuseConnection(socket, excess)
      return
    }
    const { relay, route } = this.#destinationOf(arriving.remoteAddress)
    relay.accept(socket, this.#origins[scheme], route)
  }

  #destinationOf(client: string): { relay: Relay; route?: Forward } {
    if (this.#forward === null) return { relay: this.#relayFor(client) }
    // If the upstream no longer exists, the relay resets the connection, and reports it.
    return { relay: this.#relays.plain, route: this.#wiring.routeByName?.(this.#forward) ?? NOWHERE }
  }

  #relayFor(client: string): Relay {
    const { plain, trusted, trust } = this.#relays
    return trusted !== null && isTrusted(trust, client) ? trusted : plain
  }

  #refuseConnection(socket: Socket, excess: ExceededLimit): void {
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
    socket.end(TOO_MANY)
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
  return { descriptor: descriptorOf(socket), remoteAddress: addressOf(socket) }
}

/** `client` is an IP address or ''. */
function isTrusted(trust: BlockList, client: string): boolean {
  if (client === '') return false
  return trust.check(client, isIPv6(client) ? 'ipv6' : 'ipv4')
}
