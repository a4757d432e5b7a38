import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { type ConnectionOptions, connect } from 'node:tls'
import { beforeAll, describe, expect, it } from 'vitest'
import { HelloReader, MAX_HELLO_BYTES, serverNameOf } from '../../src/proxy/tls/client-hello.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

/** The first bytes that a client of this machine's OpenSSL sends. */
async function hello(options: ConnectionOptions): Promise<Buffer> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', ...options })
  client.on('error', () => {})
  const [socket] = await once(server, 'connection')
  const [bytes] = await once(socket, 'data')
  client.destroy()
  socket.destroy()
  server.close()
  return bytes
}

/** The same message in records of other sizes. */
function refragmented(bytes: Buffer, sizes: readonly number[]): Buffer {
  const message = bytes.subarray(5)
  const records: Buffer[] = []
  for (let at = 0, n = 0; at < message.length; n++) {
    const part = message.subarray(at, at + (sizes[n % sizes.length] ?? 1))
    const head = Buffer.of(22, 3, 1, part.length >> 8, part.length & 0xff)
    records.push(head, part)
    at += part.length
  }
  return Buffer.concat(records)
}

const NAME = 'www.example.test'
let named: Buffer[]
let nameless: Buffer[]
beforeAll(async () => {
  const kinds = [{ maxVersion: 'TLSv1.2' }, { minVersion: 'TLSv1.3' }, { ALPNProtocols: ['h2'] }] as const
  named = await Promise.all(kinds.map(kind => hello({ ...kind, ALPNProtocols: ['h2'], servername: NAME })))
  nameless = await Promise.all(kinds.map(kind => hello({ ...kind, ALPNProtocols: ['h2'] })))
})

describe('the server name of a ClientHello', () => {
  it('comes as soon as the message is whole, and not before', () => {
    for (const [helloes, name] of [
      [named, NAME],
      [nameless, null],
    ] as const) {
      for (const bytes of helloes) {
        for (let cut = 0; cut < bytes.length; cut++)
          expect(serverNameOf(bytes.subarray(0, cut))).toBeUndefined()
        expect(serverNameOf(bytes)).toBe(name)
        expect(serverNameOf(Buffer.concat([bytes, Buffer.from('more')]))).toBe(name)
      }
    }
  })

  it('comes with the protocols that the client offers', async () => {
    for (const [offer, protocols] of [
      [['acme-tls/1'], ['acme-tls/1']],
      [
        ['h2', 'http/1.1'],
        ['h2', 'http/1.1'],
      ],
      [[], []],
    ]) {
      const bytes = await hello({ ...(offer!.length > 0 && { ALPNProtocols: offer! }), servername: NAME })
      const reader = new HelloReader()
      expect([reader.add(bytes), reader.protocols]).toEqual([NAME, protocols])
    }
  })

  it('comes from any number of records', () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 5 })
    fc.assert(
      fc.property(
        fc.nat({ max: 2 }),
        sizes,
        fc.double({ min: 0, max: 0.999, noNaN: true }),
        (n, sizes, at) => {
          const bytes = refragmented(named[n]!, sizes)
          expect(serverNameOf(bytes)).toBe(NAME)
          expect(serverNameOf(bytes.subarray(0, Math.floor(bytes.length * at)))).toBeUndefined()
        },
      ),
      { seed: 7, numRuns: perLane(125, 500) },
    )
  })

  it('comes from any number of pieces, which come back whole', () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 5 })
    fc.assert(
      fc.property(fc.nat({ max: 2 }), sizes, sizes, (n, records, pieces) => {
        const bytes = refragmented(named[n]!, records)
        const reader = new HelloReader()
        let found: string | null | undefined
        let at = 0
        for (let i = 0; found === undefined; i++) {
          const piece = bytes.subarray(at, at + pieces[i % pieces.length]!)
          found = reader.add(piece)
          at += piece.length
        }
        expect([found, reader.bytes.equals(bytes.subarray(0, at))]).toEqual([NAME, true])
      }),
      { seed: 9, numRuns: perLane(125, 500) },
    )
  })

  it('takes a time in proportion to its size, however small its pieces and records are', () => {
    const reader = new HelloReader()
    // Records of one byte each, of a message that never ends.
    const bytes = refragmented(
      Buffer.concat([Buffer.alloc(5), Buffer.of(1, 0, 0xff, 0xfb), Buffer.alloc(12_000)]),
      [1],
    )
    const began = process.cpuUsage()
    let found: string | null | undefined
    for (let at = 0; at < MAX_HELLO_BYTES - 1; at++) found ??= reader.add(bytes.subarray(at, at + 1))
    expect(found).toBeUndefined()
    expect(reader.add(bytes.subarray(0, 1))).toBeNull()
    const { user, system } = process.cpuUsage(began)
    // Parsing again at each byte takes many times as long.
    expect((user + system) / 1_000).toBeLessThan(3_000)
  })

  it('gives a text, none, or not there yet, whatever was damaged', () => {
    const damage = fc.array(fc.tuple(fc.nat(), fc.nat({ max: 255 })), { minLength: 1, maxLength: 6 })
    fc.assert(
      fc.property(fc.nat({ max: 2 }), damage, (n, damage) => {
        const bytes = Buffer.from(named[n]!)
        for (const [at, byte] of damage) bytes[at % bytes.length] = byte
        const found = serverNameOf(bytes)
        if (typeof found === 'string') expect(found.length).toBeGreaterThan(0)
        else expect([null, undefined]).toContain(found)
      }),
      { seed: 8, numRuns: perLane(2_500, 20_000) },
    )
  })

  it('gives none where there is no ClientHello, or a huge one', () => {
    for (const text of ['GET / HTTP/1.1\r\n', '\x15\x03\x01\x00\x02\x01\x00', 'SSH-2.0-x\r\n', '\0'])
      expect(serverNameOf(Buffer.from(text, 'latin1'))).toBeNull()
    expect(serverNameOf(Buffer.of(22, 3, 1, 0, 0))).toBeNull()
    expect(serverNameOf(Buffer.of(22, 3, 1, 0, 4, 1, 0, 0, 0))).toBeNull()
    expect(serverNameOf(Buffer.of(22, 3, 1, 0, 4, 2, 0, 0, 0))).toBeNull()
    const length = MAX_HELLO_BYTES
    const huge = Buffer.of(22, 3, 1, 0x40, 0, 1, length >> 16, (length >> 8) & 0xff, length & 0xff)
    expect(serverNameOf(huge)).toBeNull()
  })
})
