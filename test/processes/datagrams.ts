import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { onTestFinished } from 'vitest'

async function bound(host = '127.0.0.1', port = 0): Promise<Socket> {
  const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4')
  onTestFinished(() => {
    try {
      socket.close()
    } catch {
      // The test has closed it.
    }
  })
  socket.bind(port, host)
  await once(socket, 'listening')
  return socket
}

/** A server that gives each datagram back, after its name. */
export class DatagramEcho {
  readonly name: string
  readonly socket: Socket
  readonly port: number
  /** The ports from which each text before the first space came. */
  readonly ports = new Map<string, Set<number>>()
  heard = 0

  private constructor(name: string, socket: Socket) {
    this.name = name
    this.socket = socket
    this.port = socket.address().port
    socket.on('message', (datagram, from) => this.#hear(datagram, from))
  }

  static async start(name: string, port = 0, host = '127.0.0.1'): Promise<DatagramEcho> {
    return new DatagramEcho(name, await bound(host, port))
  }

  get url(): string {
    return `udp://127.0.0.1:${this.port}`
  }

  #hear(datagram: Buffer, { port, address }: RemoteInfo): void {
    this.heard++
    const client = String(datagram.subarray(0, 32)).split(' ', 1)[0]!
    const ports = this.ports.get(client) ?? new Set()
    this.ports.set(client, ports.add(port))
    this.socket.send([`${this.name} `, datagram], port, address)
  }
}

/** A client that numbers its datagrams. */
export class DatagramClient {
  readonly name: string
  readonly socket: Socket
  readonly #port: number
  readonly #host: string
  /** When each was sent. */
  readonly #unanswered = new Map<number, number>()
  slowestMs = 0
  sent = 0
  /** The names of the servers that have answered. */
  readonly servers = new Set<string>()
  #timer: NodeJS.Timeout | undefined
  #waiting: (() => void)[] = []

  private constructor(name: string, socket: Socket, port: number, host: string) {
    this.name = name
    this.socket = socket
    this.#port = port
    this.#host = host
    socket.on('message', datagram => this.#hear(datagram))
    onTestFinished(() => clearInterval(this.#timer))
  }

  static async open(name: string, port: number, host = '127.0.0.1'): Promise<DatagramClient> {
    return new DatagramClient(name, await bound(host.includes(':') ? '::1' : '127.0.0.1'), port, host)
  }

  /** The numbers of the datagrams without an answer. */
  get lost(): readonly number[] {
    return [...this.#unanswered.keys()]
  }

  say(): void {
    this.#unanswered.set(++this.sent, performance.now())
    this.socket.send(`${this.name} ${this.sent}`, this.#port, this.#host)
  }

  /** Waits for no answer any more. */
  forget(): void {
    this.#unanswered.clear()
  }

  /** Sends a datagram each `ms` milliseconds, until {@link stop}; not in step with other clients. */
  talk(ms: number): void {
    this.#timer = setTimeout(() => {
      this.say()
      this.#timer = setInterval(() => this.say(), ms)
    }, Math.random() * ms)
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** Sends a datagram, and resolves with the name of the server that answers it, as soon as no answer is missing. */
  async ask(): Promise<string> {
    this.say()
    while (this.#unanswered.size > 0) await new Promise<void>(resolve => this.#waiting.push(resolve))
    return [...this.servers].at(-1)!
  }

  #hear(datagram: Buffer): void {
    const [server = '', name, number] = String(datagram).split(' ')
    if (name !== this.name) throw new Error(`${this.name} got an answer for ${name}`)
    this.servers.add(server)
    const sentAt = this.#unanswered.get(Number(number)) ?? performance.now()
    this.slowestMs = Math.max(this.slowestMs, performance.now() - sentAt)
    this.#unanswered.delete(Number(number))
    for (const resolve of this.#waiting.splice(0)) resolve()
  }
}
