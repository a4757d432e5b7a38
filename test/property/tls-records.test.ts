import { expect, test } from 'vitest'
import { RecordLayer, type TrafficState } from '../../src/tls13/record-layer.js'
import { DATA, SUITES, type SuiteName, stateOf, TlsPeer } from '../connections-support/tls-peer.js'
import fc from '../lanes/generated.js'

const bytes = (max: number) => fc.integer({ min: 0, max }).chain(length => fc.constant(length))
const step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      step: fc.constant('client' as const),
      length: bytes(16_384),
      padding: bytes(255),
    }),
  },
  { weight: 4, arbitrary: fc.record({ step: fc.constant('server' as const), length: bytes(40_000) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      step: fc.constant('update' as const),
      requested: fc.constantFrom(0 as const, 1 as const),
    }),
  },
  { weight: 2, arbitrary: fc.record({ step: fc.constant('move' as const) }) },
)
const number = fc.constantFrom(0, 3, 2 ** 32 - 2, 2 ** 45)

test('all content arrives in order both ways, however it is padded, split, rekeyed and moved, and no nonce is used twice with a key', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...(Object.keys(SUITES) as SuiteName[])),
      number,
      fc.array(step, { maxLength: 12 }),
      fc.array(fc.integer({ min: 1, max: 3_000 }), { minLength: 1, maxLength: 5 }),
      (suite, first, steps, sizes) => {
        const state: TrafficState = stateOf(suite, { readSequence: first, writeSequence: 0 })
        const peer = new TlsPeer(state)
        let layer = new RecordLayer(state)
        const sent = { client: [] as Buffer[], server: [] as Buffer[] }
        const received: Buffer[] = []
        /** Sent by the client, not read by the server. */
        let inFlight = Buffer.alloc(0)
        let turn = 0
        const deliver = (all: boolean) => {
          do {
            const part = inFlight.subarray(0, sizes[turn++ % sizes.length])
            inFlight = inFlight.subarray(part.length)
            layer.receive(part, content => received.push(content))
          } while (all && inFlight.length > 0)
        }
        for (const [i, each] of steps.entries()) {
          if (each.step === 'client') {
            const content = Buffer.alloc(each.length, i + 1)
            // A record has at most 2^14 bytes with its padding.
            const record = peer.seal(DATA, content, Math.min(each.padding, 16_384 - each.length))
            inFlight = Buffer.concat([inFlight, record])
            sent.client.push(content)
          } else if (each.step === 'server') {
            const content = Buffer.alloc(each.length, i + 1)
            peer.read(Buffer.concat(layer.seal(content)))
            sent.server.push(content)
          } else if (each.step === 'update')
            inFlight = Buffer.concat([inFlight, peer.keyUpdate(each.requested)])
          else {
            // The next process gets a part that this one has read and not opened.
            const unread = inFlight.subarray(0, sizes[0])
            inFlight = inFlight.subarray(unread.length)
            layer = new RecordLayer(layer.takeState(unread))
          }
          deliver(false)
        }
        deliver(true)
        peer.read(Buffer.concat(layer.seal(Buffer.from('end'))))
        expect(Buffer.concat(received).equals(Buffer.concat(sent.client))).toBe(true)
        expect(peer.received.equals(Buffer.concat([...sent.server, Buffer.from('end')]))).toBe(true)
        expect(new Set(peer.used).size).toBe(peer.used.length)
        expect(layer.isInRecord).toBe(false)
      },
    ),
  )
})

test('a stream that is cut or changed anywhere gives a part of the content, and an alert or nothing more', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 5 }),
      fc.nat(),
      fc.integer({ min: 0, max: 255 }),
      (lengths, position, flip) => {
        const state = stateOf('TLS_AES_128_GCM_SHA256')
        const [peer, layer] = [new TlsPeer(state), new RecordLayer(state)]
        const contents = lengths.map((length, i) => Buffer.alloc(length, i + 1))
        const stream = Buffer.concat(contents.map(content => peer.seal(DATA, content)))
        const at = position % stream.length
        const changed = flip === 0 ? stream.subarray(0, at) : Buffer.from(stream)
        changed[at]! ^= flip
        const received: Buffer[] = []
        try {
          layer.receive(changed, content => received.push(content))
        } catch (error) {
          expect(error).toHaveProperty('alert')
        }
        const got = Buffer.concat(received)
        expect(Buffer.concat(contents).subarray(0, got.length).equals(got)).toBe(true)
        expect(got.length).toBeLessThan(stream.length)
      },
    ),
  )
})
