import {
  hasPolledSockets,
  type OwnedFd,
  PolledSocket,
  READABLE,
  sendBytes,
  socketPair,
} from '../kernel/index.js'
import type { Dial } from './destination.js'
import {
  type ByteStream,
  type ClientOrigin,
  NO_OWNER,
  Relay,
  type RelayOptions,
  type StreamOwner,
  streamFromFd,
  type Tally,
  UpstreamPools,
} from './index.js'

const LF = 0x0a
const H = 0x48
const P = 0x50

const browser = [
  'GET /some/where/17.html?of=this HTTP/1.1',
  'Host: one.invalid',
  'Connection: keep-alive',
  'User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36',
  'Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8',
  'Accept-Encoding: gzip, deflate, br',
  'Accept-Language: en-US,en;q=0.9',
  'Cookie: session=0123456789abcdef; theme=dark',
  'Referer: http://one.invalid/',
  '\r\n',
].join('\r\n')
const short = 'GET /17 HTTP/1.1\r\nHost: one.invalid\r\n\r\n'
const post = [
  'POST /form HTTP/1.1',
  'Host: two.invalid:8080',
  'Content-Type: text/plain',
  'Content-Length: 7',
  '\r\n',
].join('\r\n')
const head = 'HEAD /other/17 HTTP/1.1\r\nHost: two.invalid\r\nAccept: */*\r\n\r\n'

/** Every head ends with LF and the body does not, so that {@link respond} can tell them apart. */
const REQUESTS = [short, browser, `${post}a=1&b=2`, short, browser, head].map(text => Buffer.from(text))

const responseHead = (bytes: number) =>
  [
    'HTTP/1.1 200 OK',
    'Date: Sat, 21 Nov 2026 09:00:00 GMT',
    'Server: none',
    'Content-Type: text/html; charset=utf-8',
    'Cache-Control: no-cache',
    'ETag: "0123456789abcdef"',
    'Set-Cookie: session=0123456789abcdef; Path=/; HttpOnly',
    `Content-Length: ${bytes}`,
    '\r\n',
  ].join('\r\n')
const RESPONSES = [
  'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n',
  responseHead(480) + 'x'.repeat(480),
].map(text => Buffer.from(text))
const RESPONSE_TO_HEAD = Buffer.from(responseHead(480))

/** Responds to a complete request in `request[0, bytes)` as a server would. `number` selects the response. */
function respond(server: StandIn, request: Buffer, bytes: number, number: number): void {
  const endsWithHead = request[bytes - 1] === LF
  // The body of the POST is still missing.
  if (endsWithHead && request[0] === P) return
  server.send(endsWithHead && request[0] === H ? RESPONSE_TO_HEAD : RESPONSES[number % RESPONSES.length]!)
}

/** `chunk[0, bytes)` has arrived, and is valid only during the call. */
type OnBytes = (standIn: StandIn, chunk: Buffer, bytes: number) => void

/** A client or server of the warm-up: the far end of a socket pair, whose near end the relay has. */
export class StandIn extends PolledSocket {
  readonly #onBytes: OnBytes

  /** Takes ownership of `fd`. */
  constructor(fd: OwnedFd, onBytes: OnBytes) {
    super(fd)
    this.#onBytes = onBytes
    this.setEager(true)
    this.watch(READABLE)
  }

  /** Sends at once, because the kernel's buffer has room for these messages. If the relay has closed its end, closes. */
  send(line: Buffer): void {
    if (!this.open) return
    try {
      sendBytes(this.descriptor, line, 0, line.length)
    } catch {
      this.close()
    }
  }

  override ready(_events: number, chunk: Buffer, read: number): void {
    const bytes = read === -1 ? this.#read(chunk) : read
    if (bytes > 0) this.#onBytes(this, chunk, bytes)
    else if (bytes !== -1) this.close()
  }

  #read(into: Buffer): number {
    try {
      return this.receive(into)
    } catch {
      return 0
    }
  }

  override close(): void {
    super.close()
  }
}

export type WarmUpRelay = Omit<RelayOptions, 'pools' | 'dial'>

export interface WarmUpOptions {
  readonly maxRequests: number
  /** Time limit in milliseconds. */
  readonly within: number
  /** Called after each response. If it returns false, the warm-up ends. */
  needed(): boolean
}

const RELAYS = 2
/** One for each relay: more would make longer turns of the event loop. */
const CLIENTS = RELAYS
/** This process and its predecessor serve real clients between bursts. A burst ends after this time, the next one starts after the pause. In milliseconds. */
const BURST_MS = 1
const PAUSE_MS = 1
const CLIENT = '127.0.0.1'

/**
 * Relays requests that this process sends to itself, so that V8 compiles the code of the relay: otherwise the first hundreds of requests take ten
 * times as long. Calls `relayOf` twice, because V8 would treat the values of a single relay as constants. Resolves with the number of responses: 0
 * without polled sockets. Rejects if no descriptors are free. Closes everything that it opened.
 */
export async function warmUp(relayOf: () => WarmUpRelay, options: WarmUpOptions): Promise<number> {
  if (!hasPolledSockets()) return 0
  const stage = new WarmUpRun()
  try {
    for (let i = 0; i < RELAYS; i++) stage.add(relayOf())
    return await stage.run(options)
  } finally {
    stage.close()
  }
}

class WarmUpRun {
  readonly #standIns: StandIn[] = []
  readonly #relays: Relay[] = []
  readonly #pools: UpstreamPools[] = []
  #responses = 0

  add(options: WarmUpRelay): void {
    const pools = new UpstreamPools({ dial: this.#dial })
    this.#pools.push(pools)
    this.#relays.push(new Relay({ ...options, pools }))
  }

  run({ maxRequests, within, needed }: WarmUpOptions): Promise<number> {
    return new Promise((resolve, reject) => {
      let sent = 0
      let responses = 0
      let pause: NodeJS.Timeout | undefined
      const finish = () => {
        clearTimeout(timer)
        clearTimeout(pause)
        resolve(responses)
      }
      const timer = setTimeout(finish, within)
      const sendNext = (client: StandIn) => {
        if (sent < maxRequests) client.send(REQUESTS[sent++ % REQUESTS.length]!)
      }
      let burstEnd = performance.now() + BURST_MS
      const paused: StandIn[] = []
      const resume = () => {
        burstEnd = performance.now() + BURST_MS
        for (const client of paused.splice(0)) sendNext(client)
      }
      const onResponse = (client: StandIn) => {
        responses++
        if (responses >= maxRequests || !needed()) finish()
        else if (performance.now() < burstEnd) sendNext(client)
        else if (paused.push(client) === 1) pause = setTimeout(resume, PAUSE_MS)
      }
      try {
        for (let i = 0; i < CLIENTS; i++) {
          const at = i % RELAYS
          const origin: ClientOrigin = { listener: `warm-up ${at}`, scheme: 'http' }
          const [stream, client] = this.#pair(NO_OWNER, { open: 0 }, CLIENT, onResponse)
          this.#relays[at]!.acceptStream(stream, origin)
          sendNext(client)
        }
      } catch (error) {
        clearTimeout(timer)
        reject(error)
      }
    })
  }

  readonly #dial: Dial = (_destination, owner, tally) => {
    const [stream] = this.#pair(owner, tally, '', (server, chunk, bytes) =>
      respond(server, chunk, bytes, this.#responses++),
    )
    return stream
  }

  #pair(owner: StreamOwner, tally: Tally, remoteAddress: string, onBytes: OnBytes): [ByteStream, StandIn] {
    const [here, there] = socketPair('warm-up')
    const standIn = new StandIn(there, onBytes)
    this.#standIns.push(standIn)
    const stream = streamFromFd(here, owner, tally, remoteAddress)
    stream.setReading(true)
    return [stream, standIn]
  }

  close(): void {
    for (const relay of this.#relays) relay.close()
    for (const pools of this.#pools) pools.clear()
    for (const standIn of this.#standIns) standIn.close()
  }
}
