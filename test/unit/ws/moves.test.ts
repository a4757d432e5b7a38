import http from 'node:http'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { WebSocket, WebSocketServer } from 'ws'
import { carry, giveBack, type Place, place, taken } from '../../connections-support/http-pair.js'
import {
  Client,
  moveWebSockets,
  Numbering,
  socketOf,
  takenOverOf,
} from '../../connections-support/web-sockets.js'
import { until } from '../../processes/until.js'

async function carried(from: Place, to: Place): Promise<void> {
  await until('it has moved', () => carry(from, to) === 1)
}

/** The parser of frames. */
function receiverOf(ws: WebSocket): Record<'_numFragments' | '_state' | '_totalPayloadLength', number> {
  return Reflect.get(ws, '_receiver')
}

/** A masked frame. */
function frame(first: number, payload: string | Buffer): Buffer {
  const data = Buffer.from(payload)
  const head =
    data.length < 126 ? [first, 0x80 | data.length] : [first, 0xfe, data.length >> 8, data.length & 255]
  const mask = Buffer.of(1, 2, 3, 4)
  return Buffer.concat([Buffer.from(head), mask, data.map((byte, i) => byte ^ mask[i % 4]!)])
}

describe('a WebSocket of the package ws', () => {
  it('goes on in the next process, with data, request, subprotocol and kind of binary data', async () => {
    const [old, young] = [new Numbering('old'), new Numbering('young')]
    const [from, to] = [await old.place(), await young.place()]
    const client = await Client.to(from, { headers: { cookie: 'a=1' } }, ['one', 'two'])
    client.ws.send('a')
    expect(await client.next()).toEqual(['old 1 a'])
    const before = old.only
    before.binaryType = 'arraybuffer'
    let closes = 0
    before.on('close', () => closes++)
    await carried(from, to)
    client.ws.send('b')
    expect(await client.next()).toEqual(['young 2 b'])
    const { protocol, binaryType } = young.only
    expect({ protocol, binaryType }).toEqual({ protocol: 'one', binaryType: 'arraybuffer' })
    const [request] = young.requests
    expect([request!.url, request!.headers.cookie, request!.socket.remotePort]).toEqual([
      '/path?q=1',
      'a=1',
      client.raw.localPort,
    ])
    await until('the old one is gone', () => old.wss.clients.size === 0)
    expect([before.readyState, closes]).toEqual([WebSocket.CLOSED, 0])
    client.ws.close(4000)
    await until('it is closed', () => client.closed === 4000 && young.wss.clients.size === 0)
  })

  it.each([false, true])(
    'moves after every byte of its frames (allowSynchronousEvents: %s)',
    async allowSynchronousEvents => {
      const options = { allowSynchronousEvents, maxPayload: 400 }
      const servers = [new Numbering('x', options), new Numbering('x', options)]
      const places = [await servers[0]!.place(), await servers[1]!.place()]
      const client = await Client.to(places[0]!)
      const pongs: string[] = []
      client.ws.on('pong', data => pongs.push(String(data)))
      const bytes = Buffer.concat([
        frame(0x81, 'one'),
        frame(0x01, ''),
        frame(0x00, 'tw'),
        frame(0x89, 'ping'),
        frame(0x80, 'o'.repeat(300)),
        frame(0x82, Buffer.alloc(130)),
        frame(0x01, 'thr'),
        frame(0x00, ''),
        frame(0x80, 'ee'),
      ])
      let at = 0
      const sockets = () => [...servers[0]!.wss.clients, ...servers[1]!.wss.clients]
      for (let move = 0; at < bytes.length; move++) {
        // The payload of the long frames in larger steps.
        const step = at % 3 === 0 && at > 40 ? 7 : 1
        client.raw.write(bytes.subarray(at, at + step))
        at += step
        const socket = socketOf(sockets()[0]!)
        const read = socket.bytesRead
        await until('it is read', () => socket.bytesRead > read || socket.destroyed)
        await carried(places[move % 2]!, places[1 - (move % 2)]!)
      }
      expect(await client.next(4)).toEqual([
        'x 1 one',
        `x 2 tw${'o'.repeat(300)}`,
        'x 3 130 bytes',
        'x 4 three',
      ])
      expect([pongs, client.closed]).toEqual([['ping'], null])
      // The limit counts the fragments that came before.
      client.raw.write(frame(0x01, 'a'.repeat(300)))
      const now = servers.find(({ wss }) => wss.clients.size === 1)!
      const there = places[servers.indexOf(now)]!
      await until('it is read', () => receiverOf(now.only)._totalPayloadLength === 300)
      await carried(there, places[1 - places.indexOf(there)]!)
      client.raw.write(frame(0x80, 'a'.repeat(101)))
      await until('it is too large', () => client.closed === 1009)
    },
  )

  it.each([
    ['with context takeover', {}],
    [
      'without context takeover',
      { serverNoContextTakeover: true, clientNoContextTakeover: true, threshold: 0 },
    ],
    ['with small windows', { serverMaxWindowBits: 10, clientMaxWindowBits: 9 }],
  ])('compresses as before, %s', async (_title, perMessageDeflate) => {
    const servers = [new Numbering('x', { perMessageDeflate }), new Numbering('x', { perMessageDeflate })]
    const places = [await servers[0]!.place(), await servers[1]!.place()]
    const client = await Client.to(places[0]!)
    expect(client.ws.extensions).toBe('permessage-deflate')
    const text = (n: number) => `${n} `.repeat(n % 5 === 0 ? 9_000 : 40) + 'the same text in each message'
    for (let n = 1; n <= 24; n++) {
      if (n % 2 === 0) client.ws.send(text(n))
      else
        for (let part = 0; part < 4; part++)
          client.ws.send(`${text(n)}`.slice(part * 50, part === 3 ? undefined : (part + 1) * 50), {
            fin: part === 3,
          })
      expect(await client.next()).toEqual([`x ${n} ${text(n)}`])
      if (n % 2 === 0) await carried(places[(n / 2 - 1) % 2]!, places[(n / 2) % 2]!)
      // Twice without a message between.
      if (n === 12) {
        await carried(places[0]!, places[1]!)
        await carried(places[1]!, places[0]!)
      }
    }
    expect(client.closed).toBeNull()
  })

  it('compresses as before with a release whose permessage-deflate takes its options as arguments', async () => {
    const options = {
      perMessageDeflate: { serverMaxWindowBits: 10, serverNoContextTakeover: true, threshold: 0 },
    }
    const servers = [new Numbering('x', options), new Numbering('x', options)]
    const places = [await servers[0]!.place(), await servers[1]!.place()]
    const client = await Client.to(places[0]!)
    const compression = Reflect.get(servers[0]!.only, '_extensions')['permessage-deflate']
    const prototype = Object.getPrototypeOf(compression)
    const Newer = prototype.constructor
    // As ws 8.18.
    prototype.constructor = new Proxy(Newer, {
      construct: (Class, [given, isServer, maxPayload]) => new Class({ ...given, isServer, maxPayload }),
    })
    onTestFinished(() => {
      prototype.constructor = Newer
    })
    const text = 'a text that is longer than the window of the server '.repeat(100)
    for (let n = 1; n <= 6; n++) {
      client.ws.send(`${n} ${text}`)
      expect(await client.next()).toEqual([`x ${n} ${n} ${text}`])
      if (n % 2 === 0) await carried(places[(n / 2 - 1) % 2]!, places[(n / 2) % 2]!)
    }
  })

  it('waits for a message that is being compressed, with more others the more of them leave', async () => {
    const [old, young] = [new Numbering('old'), new Numbering('young')]
    const [from, to] = [await old.place(), await young.place()]
    for (let n = 0; n < 160; n++) await Client.to(from)
    const senders = new Map([...old.wss.clients].map(ws => [ws, Reflect.get(ws, '_sender')]))
    const waiting = () => [...old.wss.clients].filter(ws => socketOf(ws).isPaused())
    // As while a message is compressed.
    for (const sender of senders.values()) sender._state = 1
    const asked = vi.spyOn(takenOverOf(socketOf([...old.wss.clients][0]!))!, 'serialize')
    expect([carry(from, to), waiting().length]).toEqual([0, 64])
    // The others cost no descriptor in this pass, and none does in the next.
    expect(carry(from, to)).toBe(0)
    expect(asked).toHaveBeenCalledTimes(64)
    for (const ws of waiting()) senders.get(ws).dequeue()
    let moved = 0
    await until('those are moved', () => {
      moved += carry(from, to)
      return moved === 64
    })
    expect(carry(from, to)).toBe(0)
    await until('those are closed', () => old.wss.clients.size === 96)
    expect(waiting()).toHaveLength(96)
  })

  it('moves between the fragments of a compressed message', async () => {
    const servers = [
      new Numbering('x', { perMessageDeflate: true }),
      new Numbering('x', { perMessageDeflate: true }),
    ]
    const places = [await servers[0]!.place(), await servers[1]!.place()]
    const client = await Client.to(places[0]!)
    client.ws.send('some words to which the next message refers')
    await client.next()
    for (const [i, part] of ['some words ', 'to which ', 'the next message ', 'refers'].entries()) {
      await new Promise(resolve => client.ws.send(part, { fin: i === 3 }, resolve))
      if (i < 3) {
        const receiver = receiverOf(servers[i % 2]!.only)
        await until('it is read', () => receiver._numFragments === i + 1 && receiver._state === 0)
        await carried(places[i % 2]!, places[1 - (i % 2)]!)
      }
    }
    expect(await client.next()).toEqual(['x 2 some words to which the next message refers'])
  })

  it('sends what a slow client has not received, and what waits to be compressed, once and in order', async () => {
    const [old, young] = [
      new Numbering('old', { perMessageDeflate: { threshold: 0 } }),
      new Numbering('young', { perMessageDeflate: { threshold: 0 } }),
    ]
    const [from, to] = [await old.place(), await young.place()]
    const client = await Client.to(from)
    client.ws.pause()
    const { only } = old
    const outcomes: (string | undefined)[] = []
    const socket = socketOf(only)
    const sent: string[] = []
    const send = (text: string, compress: boolean) => {
      sent.push(text)
      only.send(text, { compress }, error => outcomes.push(error?.message))
    }
    while (socket.writableLength === 0) send(`é${sent.length}`.repeat(50_000), false)
    for (let n = 0; n < 8; n++) send(`${n} `.repeat(20_000), n % 2 === 0)
    // Fragments, of which the first two leave with the old process.
    only.send('begin ', { fin: false })
    only.send('middle ', { fin: false })
    only.ping('here')
    await carried(from, to)
    young.only.send('end')
    const pings: string[] = []
    client.ws.on('ping', data => pings.push(String(data)))
    client.ws.resume()
    expect(await client.next(sent.length + 1)).toEqual([...sent, 'begin middle end'])
    expect(pings).toEqual(['here'])
    await until('all are sent', () => outcomes.length === sent.length)
    expect(outcomes.filter(outcome => outcome !== undefined)).toEqual([])
  })

  it('stays, with a reason, if the application keeps it, throws or speaks another extension', async () => {
    let returned: () => Uint8Array | undefined = () => undefined
    const old = new Numbering('old', {}, { serialize: () => returned() })
    const [from, to] = [await old.place(), await new Numbering('young').place()]
    const client = await Client.to(from)
    expect(carry(from, to)).toBe(0)
    expect(from.served.kinds()).toEqual({ open: 1 })
    returned = () => {
      throw new Error('not I')
    }
    expect(carry(from, to)).toBe(0)
    expect([from.served.kinds(), from.faults]).toEqual([{ hook: 1 }, [new Error('not I')]])
    Object.assign(old.only, { _extensions: { 'x-other': {} } })
    expect(carry(from, to)).toBe(0)
    expect(from.served.kinds()).toEqual({ extension: 1 })
    client.ws.send('a')
    expect(await client.next()).toEqual(['old 1 a'])
    expect(from.served.cut().closed).toEqual([{ kind: 'websocket', reason: 'extension', count: 1 }])
  })

  it('comes back if it is refused or its hook throws in the next process', async () => {
    const [old, young] = [
      new Numbering('old', { perMessageDeflate: true }),
      new Numbering(
        'young',
        { perMessageDeflate: true },
        {
          restore: ws => {
            ws.send('never sent')
            throw new Error('not here')
          },
        },
      ),
    ]
    const [from, to] = [await old.place(), await young.place()]
    const client = await Client.to(from)
    client.ws.send('a message')
    await client.next()
    old.only.send('waits')
    let departures = taken(from)
    await until('it leaves', () => departures.length > 0 || (departures = taken(from)).length > 0)
    let thrown: { fd?: never } = {}
    try {
      giveBack(to, departures, 'moved')
    } catch (error) {
      thrown = error as typeof thrown
    }
    expect(to.faults).toEqual([new Error('not here')])
    await until('it is gone there', () => young.wss.clients.size === 0)
    giveBack(
      from,
      [{ record: departures[0]!.record, fds: [thrown.fd!] }].map(
        ({ record, fds }) => from.moving.check(record, fds)!,
      ),
      'refused',
    )
    client.ws.send('a message')
    expect(await client.next(2)).toEqual(['waits', 'old 2 a message'])
    expect([from.moving.movable, from.served.kinds()]).toEqual([0, { refused: 1 }])
  })

  it('ends with code 1012, after an error, if the release of ws has other internals', async () => {
    class Other extends WebSocketServer {
      override handleUpgrade(...[request, socket, ...others]: Parameters<WebSocketServer['handleUpgrade']>) {
        if ('remotePort' in socket) super.handleUpgrade(request, socket, ...others)
      }
    }
    const old = new Numbering('old', {}, {}, Other)
    const from = await old.place()
    const client = await Client.to(from)
    expect([from.moving.movable, carry(from, from)]).toEqual([0, 0])
    expect(from.served.kinds()).toEqual({ unsupported: 1 })
    from.served.announceFixed({ plainMs: 0, tlsMs: 0, why: 'replaced' })
    await until('it is closed', () => client.closed === 1012)
    expect(from.faults).toEqual([expect.objectContaining({ code: 'ERR_FDB_WS' })])
  })

  it('ends with the code of the last reason, whatever was before its process served again', async () => {
    const reasons = ['replaced', 'ended', 'replaced', 'ended'] as const
    const codes = { replaced: 1012, ended: 1001 }
    const at = await new Numbering('old', {}, { serialize: () => undefined }).place()
    const clients = await Promise.all(reasons.map(() => Client.to(at)))
    const taken = takenOverOf(at.sockets[0]!)!
    const leave = (why: 'replaced' | 'ended', withinMs: number) => {
      const open = at.sockets.filter(socket => !socket.destroyed)
      taken.leave(open, { withinMs, why, failed: () => expect.unreachable() })
    }
    const closed = () => clients.flatMap(client => client.closed ?? [])
    // The first one ends at once, and the others have a minute.
    for (const [round, why] of reasons.entries()) {
      leave(why, 60_000)
      await until('one is closed', () => closed().length > round)
      taken.stay()
    }
    expect(closed().sort()).toEqual(reasons.map(why => codes[why]).sort())
    const last = await Promise.all([Client.to(at), Client.to(at)])
    leave('replaced', 60_000)
    leave('ended', 0)
    await until('both are closed', () => last.every(client => client.closed !== null))
    expect(last.map(client => client.closed).sort()).toEqual([1001, 1012])
  })

  it('comes back from a version that does not move its WebSockets', async () => {
    const from = await new Numbering('old').place()
    await Client.to(from)
    const departures = taken(from)
    const others = [await place(http.createServer()), await new Numbering('x', {}, { name: 'other' }).place()]
    for (const { moving } of others)
      expect(() => moving.check(departures[0]!.record, departures[0]!.fds)).toThrow(
        expect.objectContaining({ code: 'ERR_FDB_NO_TARGET' }),
      )
    giveBack(from, departures, 'returned')
  })
})

describe('moveWebSockets()', () => {
  it('wants a WebSocketServer, both hooks or none, and a name for each server', () => {
    const wss = new WebSocketServer({ noServer: true })
    onTestFinished(() => wss.close())
    const wrong = expect.objectContaining({ code: 'ERR_FDB_OPTION' })
    for (const given of [null, {}, http.createServer()])
      expect(() => Reflect.apply(moveWebSockets, null, [given])).toThrow(wrong)
    expect(() => moveWebSockets(wss, { serialize: () => undefined })).toThrow(wrong)
    moveWebSockets(wss, { name: 'chat' })
    expect(() => moveWebSockets(wss, { name: 'chat' })).toThrow(wrong)
  })
})
