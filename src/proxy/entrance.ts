import { BlockList, createServer, type Server, type Socket } from 'node:net'
import type { ConnectionKeeper, DrainCounts } from '../adapter.js'
import { isIPv6 } from '../base/lazy.js'
import type { ForcedClose } from '../index.js'
import { type Accepted, acceptBare } from '../node/accepted.js'
import { addressOf, descriptorOf } from '../node/socket-handle.js'
import { type Origin, Relay, RelayedConnections, type RelayOptions, type SendOn } from '../relay/index.js'
import type { Admission, Arriving, Excess } from './admission.js'
import type { ListenerConfig, ProxyConfig } from './config/config.js'
import { relayOptions, relaySettings } from './relay-options.js'
import type { Handshakes } from './tls/handshakes.js'
import type { TlsTermination } from './tls/termination.js'

/** How long a client that is one too many may take to read so. */
const TURNED_AWAY_MS = 2_000
/** A connection that is told its end at the end of the drain has this long for it. */
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

const NOWHERE: SendOn = { kind: 'upstream', name: '', pick: () => null }

export type RelayWiring = Pick<
  RelayOptions,
  'route' | 'routeByName' | 'destinationByKey' | 'onExchange' | 'onFault' | 'onShortage' | 'pools'
>

/** The relays of one configuration: clients that may tell who came before them have one of their own. */
interface Relays {
  settings: string
  plain: Relay
  trusted: Relay | null
  trust: BlockList
}

/** One listener's connections. A new configuration is for new connections: those that are open go on as they began. */
export class Entrance implements ConnectionKeeper {
  readonly server: Server
  readonly moving: RelayedConnections
  readonly #name: string
  readonly #origins: Readonly<Record<Origin['scheme'], Origin>>
  readonly #tls: TlsTermination
  readonly #wiring: RelayWiring
  readonly #admission: Admission
  readonly #onEmpty: () => void
  #forward: string | null
  #handshakes: Handshakes | null = null
  #secure = false
  /** For streams of events, see {@link Relay.end}. */
  readonly #lastEvent: string
  #relays: Relays
  /** Relays of former configurations, as long as they have connections. */
  #former: Relay[] = []
  #turnedAway = 0
  /** Connections of this process to itself. */
  readonly #own = new WeakSet<Socket>()
  #empty: (() => void)[] = []

  /** `onEmpty` is called whenever the last connection is gone. */
  constructor(
    { name, forward }: ListenerConfig,
    config: ProxyConfig,
    wiring: RelayWiring,
    tls: TlsTermination,
    { admission, onEmpty }: { admission: Admission; onEmpty: () => void },
  ) {
    this.#onEmpty = onEmpty
    this.#name = name
    this.#origins = { http: { listener: name, scheme: 'http' }, https: { listener: name, scheme: 'https' } }
    this.#tls = tls
    this.#forward = forward
    this.#wiring = wiring
    this.#admission = admission
    this.#lastEvent = config.drain.lastEvent
    this.#relays = this.#make(config)
    this.server = createServer({ pauseOnConnect: true, allowHalfOpen: true, noDelay: true }, socket =>
      this.#begin(socket),
    )
    acceptBare(this.server, connection => this.#takes(connection))
    this.moving = new RelayedConnections({
      listener: name,
      relays: () => this.#all(),
      relayFor: client => this.#relayFor(client),
    })
    this.#speak(config)
  }

  get scheme(): string {
    if (this.#forward !== null) return this.#secure ? 'tls' : 'tcp'
    return this.#secure ? 'https' : 'http'
  }

  configure(config: ProxyConfig): void {
    this.#speak(config)
    const before = this.#relays
    if (before.settings === relaySettings(config, this.#halfCloseOf(config))) return
    this.#relays = this.#make(config)
    this.#former.push(before.plain)
    if (before.trusted !== null) this.#former.push(before.trusted)
    this.#emptied()
  }

  get connections(): number {
    let sum = this.#handshakes?.size ?? 0
    for (const relay of this.#all()) sum += relay.size
    return sum
  }

  kinds(): Record<string, number> {
    const sum: Record<string, number> = this.#handshakes === null ? {} : { handshake: this.#handshakes.size }
    for (const relay of this.#all())
      for (const [kind, count] of Object.entries(relay.counts())) sum[kind] = (sum[kind] ?? 0) + count
    return sum
  }

  announce(): void {
    for (const relay of this.#all()) relay.drain()
  }

  resume(): void {
    for (const relay of this.#all()) relay.resume()
  }

  endIdle(): void {
    for (const relay of this.#all()) relay.closeIdle()
  }

  emptied(): Promise<void> {
    return new Promise(resolve => {
      this.#empty.push(resolve)
      this.#emptied()
    })
  }

  cut(): DrainCounts {
    const closed: ForcedClose[] = [...this.#all()].flatMap(relay => relay.end(this.#lastEvent, LINGER_MS))
    const shaking = this.#handshakes?.size ?? 0
    if (shaking > 0) closed.push({ kind: 'tls', reason: 'handshake', count: shaking })
    this.#handshakes?.cut()
    let idle = 0
    let busy = 0
    for (const { reason, count } of closed) {
      if (NOT_BUSY.has(reason)) idle += count
      else busy += count
    }
    return { idle, busy, closed }
  }

  /** Unused connections to servers are closed too. */
  close(): void {
    for (const relay of this.#all()) relay.close()
    if (this.#handshakes === null) return
    this.#handshakes.cut()
    this.#tls.release(this.#handshakes)
  }

  *#all(): Generator<Relay> {
    yield this.#relays.plain
    if (this.#relays.trusted !== null) yield this.#relays.trusted
    yield* this.#former
  }

  #make(config: ProxyConfig): Relays {
    const trust = new BlockList()
    for (const { address, prefix, family } of config.forwarded.trust) trust.addSubnet(address, prefix, family)
    const halfClose = this.#halfCloseOf(config)
    const counted = config.limits.connectionsPerClient === null ? {} : { clients: this.#admission.clients }
    const relay = (trusted: boolean) =>
      new Relay({
        ...this.#wiring,
        ...counted,
        ...relayOptions(config, { trusted, halfClose }),
        onEmpty: () => this.#emptied(),
      })
    const trusted = config.forwarded.trust.length > 0 ? relay(true) : null
    return { settings: relaySettings(config, halfClose), plain: relay(false), trusted, trust }
  }

  #halfCloseOf({ listeners }: ProxyConfig): boolean {
    return listeners.find(({ name }) => name === this.#name)?.halfClose ?? false
  }

  #speak({ listeners }: ProxyConfig): void {
    const own = listeners.find(({ name }) => name === this.#name)
    if (own === undefined) return
    this.#forward = own.forward
    this.#secure = own.tls
    if (this.#handshakes !== null) this.#handshakes.http = own.forward === null
    else if (own.tls) {
      this.#handshakes = this.#tls.handshakes({
        http: own.forward === null,
        onSecure: (socket, raw) => this.#accept(socket, 'https', raw),
        onEnd: () => this.#emptied(),
      })
    }
  }

  /** Takes a connection of this process to itself. It is never one too many: a proxy that is full could not prove that it is well. */
  takeOwn(socket: Socket): void {
    this.#own.add(socket)
    this.#begin(socket)
  }

  #begin(socket: Socket): void {
    const handshakes = this.#secure ? this.#handshakes : null
    if (handshakes === null) {
      this.#accept(socket, 'http')
      return
    }
    const excess = this.#own.has(socket) ? null : this.#excess(arrivingOver(socket))
    // Those that are one too many are told so in TLS, if they are few.
    if (excess === null || (excess !== 'descriptors' && handshakes.size < this.#admission.mostLingering)) {
      handshakes.begin(socket)
    } else {
      this.#admission.turnedAway(this.#name, excess, socket.remoteAddress)
      socket.destroy()
    }
  }

  #excess(arriving: Arriving): Excess | null {
    const { trusted, trust } = this.#relays
    return this.#admission.excess(arriving, trusted !== null && isTrusted(trust, arriving.remoteAddress))
  }

  /** A connection in the clear, within the limits, needs no socket. */
  #takes(connection: Accepted): boolean {
    if (this.#secure || this.#excess(connection) !== null) return false
    const { relay, route } = this.#placeOf(connection.remoteAddress)
    return relay.acceptBare(connection, this.#origins.http, route)
  }

  /** `raw`: below TLS, where it is known. */
  #accept(socket: Socket, scheme: Origin['scheme'], raw: Socket | undefined = socket): void {
    const arriving = arrivingOver(socket)
    const own = raw !== undefined && this.#own.has(raw)
    const excess = own ? null : this.#excess(arriving)
    if (excess !== null) {
      this.#turnAway(socket, excess)
      return
    }
    const { relay, route } = this.#placeOf(arriving.remoteAddress)
    relay.accept(socket, this.#origins[scheme], route)
  }

  #placeOf(client: string): { relay: Relay; route?: SendOn } {
    if (this.#forward === null) return { relay: this.#relayFor(client) }
    // None: it is reset, and counted.
    return { relay: this.#relays.plain, route: this.#wiring.routeByName?.(this.#forward) ?? NOWHERE }
  }

  #relayFor(client: string): Relay {
    const { plain, trusted, trust } = this.#relays
    return trusted !== null && isTrusted(trust, client) ? trusted : plain
  }

  #turnAway(socket: Socket, excess: Excess): void {
    this.#admission.turnedAway(this.#name, excess, socket.remoteAddress)
    socket.on('error', () => {})
    const told = excess !== 'descriptors' && this.#turnedAway < this.#admission.mostLingering
    if (this.#forward !== null || !told) {
      socket.destroy()
      return
    }
    this.#turnedAway++
    const timer = setTimeout(() => socket.destroy(), TURNED_AWAY_MS)
    socket.on('close', () => {
      clearTimeout(timer)
      this.#turnedAway--
    })
    // The client's further bytes are read, so that closing does not reset the answer.
    socket.end(TOO_MANY)
    socket.resume()
  }

  /** A relay has lost its last connection, or a caller has come to wait for that. */
  #emptied(): void {
    this.#former = this.#former.filter(relay => {
      if (relay.size > 0) return true
      relay.close()
      return false
    })
    if (this.connections > 0) return
    this.#onEmpty()
    for (const resolve of this.#empty.splice(0)) resolve()
  }
}

function arrivingOver(socket: Socket): Arriving {
  return { descriptor: descriptorOf(socket), remoteAddress: addressOf(socket) }
}

/** `client` is an IP address, or '' where there is none. */
function isTrusted(trust: BlockList, client: string): boolean {
  if (client === '') return false
  return trust.check(client, isIPv6(client) ? 'ipv6' : 'ipv4')
}
