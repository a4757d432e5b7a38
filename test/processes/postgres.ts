import { once } from 'node:events'
import net from 'node:net'
import { onTestFinished } from 'vitest'

const SSL_REQUEST = 80_877_103
const TEXT_OID = 25

/** One query, answered with rows of text. */
export type Answer = (sql: string, values: readonly string[]) => readonly Readonly<Record<string, string>>[]

/** A stand-in for a PostgreSQL server: its protocol over TCP, version 3, with answers of the test. Ended with it. */
export class Postgres {
  readonly url: string
  /** Connections that are open. */
  readonly open = new Set<net.Socket>()
  /** Clients that left without saying so, or that it did not understand. */
  readonly broken: string[] = []

  private constructor(port: number) {
    this.url = `postgres://shop:shop@127.0.0.1:${port}/shop`
  }

  static async start(answer: Answer): Promise<Postgres> {
    const server = net.createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const postgres = new Postgres((server.address() as net.AddressInfo).port)
    server.on('connection', socket => postgres.#talk(socket, answer))
    onTestFinished(() => {
      server.close()
      for (const socket of postgres.open) socket.destroy()
    })
    return postgres
  }

  #talk(socket: net.Socket, answer: Answer): void {
    this.open.add(socket)
    const talk = new Talk(socket, answer)
    socket.on('data', bytes => {
      try {
        talk.read(bytes)
      } catch (error) {
        this.broken.push(String(error))
        socket.destroy()
      }
    })
    socket.on('error', error => this.broken.push(error.message))
    socket.once('close', () => this.open.delete(socket))
  }
}

/** The server's side of a connection. */
class Talk {
  readonly #socket: net.Socket
  readonly #answer: Answer
  #bytes = Buffer.alloc(0)
  #begun = false
  #sql = ''
  #bound: ReturnType<Answer> = []

  constructor(socket: net.Socket, answer: Answer) {
    this.#socket = socket
    this.#answer = answer
  }

  read(bytes: Buffer): void {
    this.#bytes = Buffer.concat([this.#bytes, bytes])
    for (;;) {
      const head = this.#begun ? 1 : 0
      if (this.#bytes.length < head + 4) return
      const end = head + this.#bytes.readInt32BE(head)
      if (this.#bytes.length < end) return
      const body = this.#bytes.subarray(head + 4, end)
      const kind = this.#begun ? String.fromCharCode(this.#bytes[0]!) : 'startup'
      this.#bytes = this.#bytes.subarray(end)
      this.#message(kind, body)
    }
  }

  #message(kind: string, body: Buffer): void {
    switch (kind) {
      case 'startup':
        if (body.readInt32BE(0) === SSL_REQUEST) {
          this.#socket.write('N')
          return
        }
        this.#begun = true
        this.#send('R', int32(0))
        this.#send('S', text('server_version'), text('16.0'))
        this.#ready()
        return
      case 'Q': {
        const rows = this.#answer(strings(body)[0]!, [])
        this.#describe(rows)
        this.#rows(rows)
        this.#ready()
        return
      }
      case 'P':
        this.#sql = strings(body)[1]!
        this.#send('1')
        return
      case 'B':
        this.#bound = this.#answer(this.#sql, boundValues(body))
        this.#send('2')
        return
      case 'D':
        this.#describe(this.#bound)
        return
      case 'E':
        this.#rows(this.#bound)
        return
      case 'S':
        this.#ready()
        return
      case 'X':
        this.#socket.end()
        return
      default:
        throw new Error(`no message ${kind} is known`)
    }
  }

  #ready(): void {
    this.#send('Z', Buffer.from('I'))
  }

  #describe([row]: ReturnType<Answer>): void {
    if (row === undefined) this.#send('n')
    else {
      const fields = Object.keys(row).flatMap(name => [
        text(name),
        ...[int32(0), int16(0), int32(TEXT_OID), int16(-1), int32(-1), int16(0)],
      ])
      this.#send('T', int16(Object.keys(row).length), ...fields)
    }
  }

  #rows(rows: ReturnType<Answer>): void {
    for (const row of rows) {
      const values = Object.values(row).flatMap(value => [
        int32(Buffer.byteLength(value)),
        Buffer.from(value),
      ])
      this.#send('D', int16(Object.keys(row).length), ...values)
    }
    this.#send('C', text(`SELECT ${rows.length}`))
  }

  #send(kind: string, ...parts: readonly Buffer[]): void {
    const body = Buffer.concat(parts)
    this.#socket.write(Buffer.concat([Buffer.from(kind), int32(body.length + 4), body]))
  }
}

/** After the names of portal and statement and the formats. */
function boundValues(body: Buffer): string[] {
  let at = body.indexOf(0, body.indexOf(0) + 1) + 1
  at += 2 + 2 * body.readInt16BE(at)
  const values: string[] = []
  const count = body.readInt16BE(at)
  at += 2
  for (let n = 0; n < count; n++) {
    const length = Math.max(0, body.readInt32BE(at))
    values.push(body.toString('utf8', at + 4, at + 4 + length))
    at += 4 + length
  }
  return values
}

function strings(body: Buffer): string[] {
  return body.toString('utf8').split('\0')
}

function text(value: string): Buffer {
  return Buffer.from(`${value}\0`)
}

function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(value)
  return bytes
}

function int16(value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeInt16BE(value)
  return bytes
}
