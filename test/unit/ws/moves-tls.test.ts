import https from 'node:https'
import net from 'node:net'
import { Duplex } from 'node:stream'
import tls from 'node:tls'
import { describe, expect, it, onTestFinished } from 'vitest'
import { unwrittenBytes } from '../../../src/node/socket-handle.js'
import { giveBack, type Place, taken } from '../../connections-support/http-pair.js'
import { Client, Numbering, socketOf } from '../../connections-support/web-sockets.js'
import { CERTIFICATE, KEY } from '../../e2e/relay-certificate.js'
import { until } from '../../processes/until.js'

type Hooks = ConstructorParameters<typeof Numbering>[2]

function secure(name: string, options = {}, hooks: Hooks = {}): Numbering {
  return new Numbering(name, options, hooks, undefined, https.createServer({ cert: CERTIFICATE, key: KEY }))
}

/** The connection below TLS, after a move. */
function belowOf({ only }: Numbering): net.Socket {
  return Reflect.get(socketOf(only), 'below')
}

async function departed(from: Place) {
  let departures = taken(from)
  await until('it leaves', () => departures.length > 0 || (departures = taken(from)).length > 0)
  return departures
}

async function carried(from: Place, to: Place): Promise<void> {
  giveBack(to, await departed(from), 'moved')
}

/** Below the TLS of a client: passes its bytes on when the test wants. */
class HeldWire {
  readonly #raw: net.Socket
  #held: Buffer[] | null = null

  constructor({ server }: Place) {
    this.#raw = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
    onTestFinished(() => void this.#raw.destroy())
  }

  connect(): net.Socket {
    const raw = this.#raw
    const wire = new Duplex({
      read() {},
      write: (chunk: Buffer, _encoding, done) => {
        if (this.#held === null) raw.write(chunk)
        else this.#held.push(chunk)
        done()
      },
    })
    raw.on('data', chunk => wire.push(chunk))
    return tls.connect({ socket: wire, rejectUnauthorized: false })
  }

  hold(): void {
    this.#held = []
  }

  held(): Buffer {
    return Buffer.concat(this.#held!)
  }

  send(bytes: Buffer): void {
    this.#raw.write(bytes)
  }
}

describe('a WebSocket over TLS', () => {
  it('goes on through many processes, with compression, and ends as its client wants', async () => {
    const servers = ['a', 'b'].map(name => secure(name, { perMessageDeflate: true }))
    const places = [await servers[0]!.place(), await servers[1]!.place()]
    const client = await Client.to(places[0]!, { headers: { cookie: 'a=1' } })
    for (let n = 1; n <= 12; n++) {
      const text = `${n} `.repeat(900)
      client.ws.send(text)
      const name = n % 2 === 1 ? 'a' : 'b'
      expect(await client.next()).toEqual([`${name} ${n} ${text}`])
      await carried(places[(n - 1) % 2]!, places[n % 2]!)
    }
    expect(servers[1]!.requests[0]!.headers.cookie).toBe('a=1')
    expect(places.map(({ served }) => served.connections)).toEqual([1, 0])
    client.ws.close(4000)
    await until('it is closed', () => client.closed === 4000 && servers[0]!.wss.clients.size === 0)
    expect(places.map(({ faults }) => faults)).toEqual([[], []])
  })

  it('moves after every byte of a record, once it has moved', async () => {
    const servers = [secure('x'), secure('x')]
    const places = [await servers[0]!.place(), await servers[1]!.place()]
    const wire = new HeldWire(places[0]!)
    const client = await Client.to(places[0]!, { createConnection: () => wire.connect() })
    await carried(places[0]!, places[1]!)
    wire.hold()
    client.ws.send('one')
    client.ws.send('two')
    await until('the client has sealed both', () => client.ws.bufferedAmount === 0)
    let move = 1
    for (const byte of wire.held()) {
      const below = belowOf(servers[move % 2]!)
      const read = below.bytesRead
      wire.send(Buffer.of(byte))
      await until('it is read', () => below.bytesRead > read)
      await carried(places[move % 2]!, places[1 - (move % 2)]!)
      move++
    }
    expect(await client.next(2)).toEqual(['x 1 one', 'x 2 two'])
    expect([move > 50, client.closed]).toEqual([true, null])
    expect(places.map(({ faults }) => faults)).toEqual([[], []])
  })

  it('moves although its client sends all the time', async () => {
    const servers = [secure('x'), secure('x')]
    const places = [await servers[0]!.place(), await servers[1]!.place()]
    const client = await Client.to(places[0]!)
    let sent = 0
    const busy = setInterval(() => client.ws.send(`${++sent}`), 5)
    onTestFinished(() => clearInterval(busy))
    await carried(places[0]!, places[1]!)
    await carried(places[1]!, places[0]!)
    clearInterval(busy)
    const all = Array.from({ length: sent }, (_, i) => `x ${i + 1} ${i + 1}`)
    expect(await client.next(sent)).toEqual(all)
    expect(places.map(({ faults }) => faults)).toEqual([[], []])
  })

  it('sends what a slow client has not received, sealed or not, once and in order', async () => {
    const servers = [secure('a'), secure('b'), secure('c')]
    const places = await Promise.all(servers.map(numbering => numbering.place()))
    const client = await Client.to(places[0]!)
    await carried(places[0]!, places[1]!)
    client.ws.pause()
    const outcomes: (string | undefined)[] = []
    const sent: string[] = []
    const send = (server: Numbering) => {
      const text = `${sent.length} é`.repeat(40_000)
      sent.push(text)
      server.only.send(text, error => outcomes.push(error?.message))
    }
    const below = belowOf(servers[1]!)
    // A part of the last is sealed, and the kernel takes no more.
    while (unwrittenBytes(below) === 0) {
      send(servers[1]!)
      await new Promise(resolve => setTimeout(resolve))
    }
    for (let n = 0; n < 4; n++) send(servers[1]!)
    await carried(places[1]!, places[2]!)
    await carried(places[2]!, places[0]!)
    send(servers[0]!)
    client.ws.resume()
    expect(await client.next(sent.length)).toEqual(sent)
    await until('all are sent', () => outcomes.length === sent.length)
    expect(outcomes.filter(outcome => outcome !== undefined)).toEqual([])
    client.ws.send('end')
    expect(await client.next()).toEqual(['a 1 end'])
  })

  it('comes back if it is refused or its hook throws in the next process', async () => {
    const old = secure('old')
    const young = secure(
      'young',
      {},
      {
        restore: ws => {
          ws.send('never sent')
          throw new Error('not here')
        },
      },
    )
    const [from, to] = [await old.place(), await young.place()]
    const client = await Client.to(from)
    giveBack(from, await departed(from), 'returned')
    client.ws.send('one')
    expect(await client.next()).toEqual(['old 1 one'])
    const departures = await departed(from)
    let thrown: { fd?: never } = {}
    try {
      giveBack(to, departures, 'moved')
    } catch (error) {
      thrown = error as typeof thrown
    }
    expect(to.faults).toEqual([new Error('not here')])
    const value = from.moving.check(departures[0]!.record, [thrown.fd!])!
    giveBack(from, [value], 'refused')
    client.ws.send('two')
    expect(await client.next()).toEqual(['old 2 two'])
    expect([from.moving.movable, from.served.kinds()]).toEqual([0, { refused: 1 }])
  })
})
