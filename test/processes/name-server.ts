import { createSocket, type RemoteInfo } from 'node:dgram'
import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { onTestFinished } from 'vitest'

const A = 1
const AAAA = 28
const NXDOMAIN = 3
const SERVFAIL = 2
const HEADER = 12

/** The answers for one name. `silent`: none, ever. `failing`: SERVFAIL. `held`: those about IPv4 wait for this. */
export type Zone =
  | { a?: readonly string[]; aaaa?: readonly string[]; ttl?: number; held?: Promise<unknown> }
  | 'silent'
  | 'failing'

/** A real name server on a UDP port of the loopback; every name that it does not know does not exist. */
export class NameServer {
  readonly zones = new Map<string, Zone>()
  /** The names that were asked for, once for each question about IPv4 addresses. */
  readonly asked: string[] = []
  readonly #socket = createSocket('udp4', (question, { port, address }: RemoteInfo) =>
    this.#answer(question, answer => this.#socket.send(answer, port, address)),
  )

  static async start(zones: Readonly<Record<string, Zone>>): Promise<NameServer> {
    return await NameServer.#start(zones, 0)
  }

  /** One that can be asked over TCP too. */
  static async startWithTcp(zones: Readonly<Record<string, Zone>>): Promise<NameServer> {
    const streams = createServer()
    streams.listen(0, '127.0.0.1')
    await once(streams, 'listening')
    onTestFinished(() => void streams.close())
    const server = await NameServer.#start(zones, (streams.address() as AddressInfo).port)
    streams.on('connection', stream => server.#serve(stream))
    return server
  }

  static async #start(zones: Readonly<Record<string, Zone>>, port: number): Promise<NameServer> {
    const server = new NameServer()
    for (const [name, zone] of Object.entries(zones)) server.zones.set(name, zone)
    server.#socket.bind(port, '127.0.0.1')
    await once(server.#socket, 'listening')
    onTestFinished(() => void server.#socket.close())
    return server
  }

  /** Questions and answers have their length before them. */
  #serve(stream: Socket): void {
    stream.on('error', () => {})
    stream.on('data', bytes =>
      this.#answer(bytes.subarray(2), answer => {
        const length = Buffer.alloc(2)
        length.writeUInt16BE(answer.length)
        stream.write(Buffer.concat([length, answer]))
      }),
    )
  }

  /** As `resolver.servers` names it. */
  get address(): string {
    return `127.0.0.1:${(this.#socket.address() as AddressInfo).port}`
  }

  timesAsked(name: string): number {
    return this.asked.filter(asked => asked === name).length
  }

  #answer(question: Buffer, give: (answer: Buffer) => void): void {
    const labels: string[] = []
    let at = HEADER
    while (question[at]! > 0) {
      labels.push(question.toString('latin1', at + 1, at + 1 + question[at]!))
      at += 1 + question[at]!
    }
    const end = at + 5
    const type = question.readUInt16BE(at + 1)
    const name = labels.join('.').toLowerCase()
    if (type === A) this.asked.push(name)
    const zone = this.zones.get(name)
    if (zone === 'silent') return
    const told: Exclude<Zone, string> = zone === undefined || zone === 'failing' ? {} : zone
    const addresses = (type === A ? told.a : type === AAAA ? told.aaaa : undefined) ?? []
    const header = Buffer.alloc(HEADER)
    question.copy(header, 0, 0, 2)
    header.writeUInt16BE(0x8180 | (zone === undefined ? NXDOMAIN : zone === 'failing' ? SERVFAIL : 0), 2)
    header.writeUInt16BE(1, 4)
    header.writeUInt16BE(addresses.length, 6)
    const records = addresses.map(text => record(type, bytesOf(text), told.ttl ?? 60))
    const answer = Buffer.concat([header, question.subarray(HEADER, end), ...records])
    const send = () => give(answer)
    if (type === A && told.held !== undefined) void told.held.then(send)
    else send()
  }
}

function record(type: number, data: Buffer, ttl: number): Buffer {
  const head = Buffer.alloc(12)
  // The name of the question.
  head.writeUInt16BE(0xc000 | HEADER, 0)
  head.writeUInt16BE(type, 2)
  head.writeUInt16BE(1, 4)
  head.writeUInt32BE(ttl, 6)
  head.writeUInt16BE(data.length, 10)
  return Buffer.concat([head, data])
}

/** IPv4, or an IPv6 address of which `::` stands for the zeros before its last group. */
function bytesOf(address: string): Buffer {
  if (!address.includes(':')) return Buffer.from(address.split('.').map(Number))
  const bytes = Buffer.alloc(16)
  const [before = '', last = ''] = address.split('::')
  for (const [index, group] of before.split(':').entries())
    bytes.writeUInt16BE(Number.parseInt(group || '0', 16), 2 * index)
  bytes.writeUInt16BE(Number.parseInt(last || '0', 16), 14)
  return bytes
}
