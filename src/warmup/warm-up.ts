import { polledSockets, socketPair } from '../kernel/index.js'
import {
  type ByteStream,
  type Dial,
  NOBODY,
  type Origin,
  Relay,
  type RelayOptions,
  reopened,
  type StreamOwner,
  type Tally,
  UpstreamPools,
} from '../relay/index.js'
import { answer, request } from './exchanges.js'
import { type Hears, StandIn } from './stand-in.js'

/** What a relay is made with, but for who is connected to. */
export type WarmUpRelay = Omit<RelayOptions, 'pools' | 'dial'>

export interface WarmUpOptions {
  /** Exchanges, in all. */
  readonly most: number
  /** Milliseconds. */
  readonly within: number
  /** Asked after each exchange; false: it is over. */
  needed(): boolean
}

const CLIENTS = 8
const RELAYS = 2
const CLIENT = '127.0.0.1'

/**
 * Relays requests between clients and servers that this process stands in for, and nobody else: whatever `route` of `relayOf()` says, nothing is connected
 * to. V8 compiles what requests need meanwhile; without that the first few hundred take ten times as long as later ones.
 *
 * `relayOf` is called twice: from two of everything V8 learns what differs, where it would take what one has for what all
 * have, and compile anew as soon as there is another. Resolves with how many were answered; 0 where this system has no polled
 * sockets. Leaves nothing open. Rejects where there are no descriptors left.
 */
export async function warmUp(relayOf: () => WarmUpRelay, options: WarmUpOptions): Promise<number> {
  if (!polledSockets()) return 0
  const stage = new Stage()
  try {
    for (let i = 0; i < RELAYS; i++) stage.add(relayOf())
    return await stage.run(options)
  } finally {
    stage.close()
  }
}

/** Owns all that is open. */
class Stage {
  readonly #standIns: StandIn[] = []
  readonly #relays: Relay[] = []
  readonly #pools: UpstreamPools[] = []
  #said = 0

  add(options: WarmUpRelay): void {
    const pools = new UpstreamPools({ dial: this.#dial })
    this.#pools.push(pools)
    this.#relays.push(new Relay({ ...options, pools }))
  }

  run({ most, within, needed }: WarmUpOptions): Promise<number> {
    return new Promise((resolve, reject) => {
      let asked = 0
      let answered = 0
      const over = () => {
        clearTimeout(timer)
        resolve(answered)
      }
      const timer = setTimeout(over, within)
      const ask = (client: StandIn) => {
        if (asked < most) client.say(request(asked++))
      }
      const hears = (client: StandIn) => {
        answered++
        if (answered >= most || !needed()) over()
        else ask(client)
      }
      try {
        for (let i = 0; i < CLIENTS; i++) {
          const at = i % RELAYS
          const origin: Origin = { listener: `warm-up ${at}`, scheme: 'http' }
          const [stream, client] = this.#pair(NOBODY, { open: 0 }, CLIENT, hears)
          this.#relays[at]!.take(stream, origin)
          ask(client)
        }
      } catch (error) {
        clearTimeout(timer)
        reject(error)
      }
    })
  }

  /** Connections whose other end is this process. */
  readonly #dial: Dial = (_destination, owner, tally) => {
    const [stream] = this.#pair(owner, tally, '', (server, heard, bytes) =>
      answer(server, heard, bytes, this.#said++),
    )
    return stream
  }

  #pair(owner: StreamOwner, tally: Tally, remoteAddress: string, hears: Hears): [ByteStream, StandIn] {
    const [here, there] = socketPair('warm-up')
    const standIn = new StandIn(there, hears)
    this.#standIns.push(standIn)
    const stream = reopened(here, owner, tally, remoteAddress)
    stream.setReading(true)
    return [stream, standIn]
  }

  close(): void {
    for (const relay of this.#relays) relay.close()
    for (const pools of this.#pools) pools.clear()
    for (const standIn of this.#standIns) standIn.leave()
  }
}
