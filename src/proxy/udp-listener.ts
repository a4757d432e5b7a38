import { isIn } from '../checks/address-ranges.js'
import { FdbError, type Listener, type Member } from '../index.js'
import { FrontTurn, UdpForward } from '../relay/index.js'
import type { ClientLimits } from './client-limits.js'
import type { ListenerConfig } from './config/listeners.js'
import type { ProxyConfig } from './config/schema.js'
import type { RelayWiring } from './proxy-listener.js'

export interface UdpListenerDeps {
  readonly member: Pick<Member, 'commonPlace'>
  readonly clientLimits: ClientLimits
  /** Called whenever the last flow has ended. */
  readonly onEmpty: () => void
}

/** One UDP listener's flows. A new configuration applies to new flows. */
export class UdpListener {
  readonly #name: string
  readonly #forward: UdpForward
  #upstream = ''
  #idleMs = 0
  #trusts: (client: string) => boolean = () => false

  constructor(
    { name }: ListenerConfig,
    config: ProxyConfig,
    { forwardOf, destinationByKey, onExchange, onDrop, onFault }: RelayWiring,
    { member, clientLimits, onEmpty }: UdpListenerDeps,
  ) {
    this.#name = name
    this.configure(config)
    this.#forward = new UdpForward({
      listener: name,
      idleMs: () => this.#idleMs,
      forwardOf: client => forwardOf(this.#upstream, client),
      destinationByKey: key => destinationByKey?.(key),
      clients: clientLimits.tally,
      exceeds: (remoteAddress, descriptor) => {
        const client = { remoteAddress, descriptor }
        const excess =
          descriptor === null
            ? clientLimits.exceededLimit(client, this.#trusts)
            : clientLimits.exceededReserve(client)
        if (excess === null) return null
        clientLimits.warnRefused(name, excess, remoteAddress)
        return excess === 'connectionsPerClient' ? 'own' : 'all'
      },
      turnOf: socket => {
        const place = member.commonPlace
        if (place !== null) return new FrontTurn(`${place.control}.slots`, place.service, socket)
        throw new FdbError(
          'ERR_FDB_OPTION',
          'a udp:// listener of the proxy needs a control socket, beside which the versions keep a common file',
        )
      },
      onEnd: report => onExchange?.(report),
      onDrop: why => onDrop(name, why),
      onEmpty,
      onFault: error => onFault?.(error),
    })
  }

  serveOn(listener: Listener): void {
    listener.serveDatagrams(this.#forward)
  }

  get connections(): number {
    return this.#forward.connections
  }

  configure({ listeners, timeouts, forwarded }: ProxyConfig): void {
    const own = listeners.find(({ name }) => name === this.#name)
    if (own === undefined) return
    this.#upstream = own.forward ?? ''
    this.#idleMs = own.idle ?? timeouts.tunnel
    this.#trusts = isIn(forwarded.trust)
  }

  /** Flows end after a silence: a machine that leaves has nothing to announce to their clients. */
  leave(): void {}

  closeConnections(): void {
    this.#forward.cut()
  }

  /** The listener is closed while the proxy serves: no further datagrams come, so its flows end. */
  async emptied(): Promise<void> {
    this.#forward.cut()
  }

  close(): void {
    this.#forward.close()
  }
}
