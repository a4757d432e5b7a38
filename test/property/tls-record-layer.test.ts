import tls from 'node:tls'
import { describe, expect, it, test } from 'vitest'
import { AlertReceived, RecordError, RecordLayer } from '../../src/tls13/record-layer.js'
import { movesTls } from '../../src/tls13/self-test.js'
import {
  ALERT,
  DATA,
  HANDSHAKE,
  SUITES,
  type SuiteName,
  stateOf,
  TlsPeer,
} from '../connections-support/tls-peer.js'
import { CERTIFICATE, KEY } from '../e2e/relay-certificate.js'

const hex = (text: string) => Buffer.from(text.replaceAll(/\s/g, ''), 'hex')
const AES128 = 'TLS_AES_128_GCM_SHA256'

/** RFC 8448, 3: the records of the application and the alerts of a connection. */
const RFC8448 = {
  client: hex('9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5'),
  server: hex('a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643'),
  clientData:
    hex(`17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b 98 19
    a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49 15 e4`),
  serverData:
    hex(`17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25 d0 5f 82 aa 1b 36 e3 0e fa
    f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3 32 54 0d d0 32 e1 67 c2 95 5d`),
  clientClose: hex('17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0 e3'),
  serverClose: hex('17 03 03 00 13 b5 8f d6 71 66 eb f5 99 d2 47 20 cf be 7e fa 7a 88 64 a9'),
}

/** Receives everything, and returns the content. */
function opened(layer: RecordLayer, bytes: Buffer): Buffer {
  const contents: Buffer[] = []
  layer.receive(bytes, content => contents.push(content))
  return Buffer.concat(contents)
}

function alertOf(layer: RecordLayer, bytes: Buffer): number {
  try {
    layer.receive(bytes, () => {})
  } catch (error) {
    if (error instanceof RecordError) return error.alert
    throw error
  }
  return -1
}

describe('the vectors of RFC 8448', () => {
  it('give the records of the server, after its ticket, and open those of the client', () => {
    const text = Buffer.from(Array.from({ length: 50 }, (_, i) => i))
    const layer = new RecordLayer({
      ...stateOf(AES128, { writeSequence: 1 }),
      readSecret: RFC8448.client,
      writeSecret: RFC8448.server,
    })
    expect(opened(layer, RFC8448.clientData)).toEqual(text)
    expect(Buffer.concat(layer.seal(text))).toEqual(RFC8448.serverData)
    expect(layer.isClosed).toBe(false)
    expect(opened(layer, RFC8448.clientClose)).toHaveLength(0)
    expect(layer.isClosed).toBe(true)
    expect(layer.sealClose()).toEqual(RFC8448.serverClose)
  })
})

test.each(Object.keys(SUITES) as SuiteName[])('%s goes beyond 2^32 records, to 2^53', suite => {
  for (const number of [2 ** 32 - 1, 2 ** 32, 2 ** 40 + 7, 2 ** 53 - 2]) {
    const state = stateOf(suite, { readSequence: number, writeSequence: number })
    const [layer, peer] = [new RecordLayer(state), new TlsPeer(state)]
    expect(opened(layer, peer.seal(DATA, Buffer.from('a')))).toEqual(Buffer.from('a'))
    peer.read(Buffer.concat(layer.seal(Buffer.from('b'))))
    expect(peer.received).toEqual(Buffer.from('b'))
  }
  const last = new RecordLayer(stateOf(suite, { writeSequence: 2 ** 53 }))
  expect(() => last.sealClose()).toThrow('no sequence number is left')
})

describe('a record layer', () => {
  const begun = () => {
    const state = stateOf(AES128)
    return { layer: new RecordLayer(state), peer: new TlsPeer(state) }
  }

  it('takes no record that was changed, repeated, left out or sealed with another key', () => {
    for (const at of [5, 20, -1]) {
      const { layer, peer } = begun()
      const record = peer.seal(DATA, Buffer.from('hello world'))
      record[at < 0 ? record.length + at : at]! ^= 1
      expect(alertOf(layer, record)).toBe(20)
    }
    const { layer, peer } = begun()
    const record = peer.seal(DATA, Buffer.from('hello'))
    expect(opened(layer, record)).toEqual(Buffer.from('hello'))
    expect(alertOf(layer, record)).toBe(20)
    const other = begun()
    other.peer.seal(DATA, Buffer.from('hello'))
    expect(alertOf(other.layer, other.peer.seal(DATA, Buffer.from('world')))).toBe(20)
    const updated = begun()
    updated.peer.keyUpdate(0)
    expect(alertOf(updated.layer, updated.peer.seal(DATA, Buffer.from('world')))).toBe(20)
  })

  it('answers what violates the protocol with the right alert', () => {
    const cases: [alert: number, bytes: (peer: TlsPeer) => Buffer][] = [
      [22, () => Buffer.of(23, 3, 3, 0x41, 0x01)],
      [22, peer => peer.sealInner(Buffer.alloc(16_386, 23))],
      [20, () => Buffer.of(23, 3, 3, 0, 16)],
      [10, () => Buffer.of(21, 3, 3, 0, 2, 1, 0)],
      [10, () => Buffer.from('GET / HTTP/1.1')],
      [10, peer => peer.sealInner(Buffer.alloc(30))],
      [10, peer => peer.seal(20, Buffer.of(1))],
      [10, peer => peer.seal(HANDSHAKE, Buffer.alloc(0))],
      [10, peer => peer.seal(HANDSHAKE, Buffer.of(4, 0, 0, 1, 0))],
      [10, peer => peer.seal(HANDSHAKE, Buffer.of(24, 0, 0, 1, 0, 24))],
      [10, peer => Buffer.concat([peer.seal(HANDSHAKE, Buffer.of(24, 0)), peer.seal(DATA, Buffer.of(1))])],
      [50, peer => peer.seal(HANDSHAKE, Buffer.of(24, 0, 0, 2))],
      [47, peer => peer.seal(HANDSHAKE, Buffer.of(24, 0, 0, 1, 2))],
      [50, peer => peer.seal(ALERT, Buffer.of(1))],
      [10, peer => Buffer.concat(Array.from({ length: 33 }, () => peer.seal(DATA, Buffer.alloc(0))))],
    ]
    for (const [alert, bytes] of cases) {
      const { layer, peer } = begun()
      expect(alertOf(layer, bytes(peer)), bytes.toString()).toBe(alert)
    }
  })

  it('gives the content before a wrong record', () => {
    const { layer, peer } = begun()
    const contents: string[] = []
    const bytes = Buffer.concat([peer.seal(DATA, Buffer.from('a')), Buffer.of(22, 3, 3, 0, 1)])
    expect(() => layer.receive(bytes, content => contents.push(`${content}`))).toThrow(RecordError)
    expect(contents).toEqual(['a'])
  })

  it('opens nothing more when its content has ended it', () => {
    const { layer, peer } = begun()
    const contents: string[] = []
    const records = ['a', 'b'].map(text => peer.seal(DATA, Buffer.from(text)))
    layer.receive(Buffer.concat(records), content => {
      contents.push(`${content}`)
      layer.wipe()
    })
    expect(contents).toEqual(['a'])
  })

  it.each([0, 1, 7])(
    'opens the others later when its content has met an exception, %i bytes of it read before',
    early => {
      const { layer, peer } = begun()
      const contents: string[] = []
      const bytes = Buffer.concat(['a', 'b', 'c'].map(text => peer.seal(DATA, Buffer.from(text))))
      const take = (content: Buffer) => {
        contents.push(`${content}`)
        if (contents.length === 1) throw new Error('of the program')
      }
      layer.receive(bytes.subarray(0, early), take)
      expect(() => layer.receive(bytes.subarray(early), take)).toThrow('of the program')
      layer.receive(Buffer.alloc(0), take)
      expect(contents).toEqual(['a', 'b', 'c'])
    },
  )

  it('ends at the alert of a client, not at its warning that the user has canceled', () => {
    const { layer, peer } = begun()
    layer.receive(peer.seal(ALERT, Buffer.of(1, 90)), () => {})
    expect(() => layer.receive(peer.seal(ALERT, Buffer.of(2, 40)), () => {})).toThrow(AlertReceived)
  })

  it('ignores everything after close_notify', () => {
    const { layer, peer } = begun()
    const close = peer.seal(ALERT, Buffer.of(1, 0))
    expect(opened(layer, Buffer.concat([close, peer.seal(DATA, Buffer.from('late'))]))).toHaveLength(0)
    expect(opened(layer, Buffer.from('no record'))).toHaveLength(0)
    expect(layer).toMatchObject({ isClosed: true, canLeave: false, isInRecord: false })
  })

  it('says whether a record is cut', () => {
    const { layer, peer } = begun()
    const record = peer.seal(DATA, Buffer.from('hello'))
    layer.receive(record.subarray(0, 3), () => {})
    expect(layer.isInRecord).toBe(true)
    expect(opened(layer, record.subarray(3))).toEqual(Buffer.from('hello'))
    expect(layer.isInRecord).toBe(false)
  })

  it('answers a KeyUpdate that asks for one before its next data, once', () => {
    const { layer, peer } = begun()
    layer.receive(Buffer.concat([peer.keyUpdate(1), peer.keyUpdate(1), peer.keyUpdate(0)]), () => {})
    for (let i = 0; i < 2; i++) peer.read(Buffer.concat(layer.seal(Buffer.from('x'))))
    expect(peer).toMatchObject({ updates: 1, received: Buffer.from('xx') })
    expect(opened(layer, peer.seal(DATA, Buffer.from('y')))).toEqual(Buffer.from('y'))
  })

  it('takes a KeyUpdate in parts', () => {
    const { layer, peer } = begun()
    const message = Buffer.of(24, 0, 0, 1, 0)
    for (const part of [message.subarray(0, 1), message.subarray(1, 4)]) {
      layer.receive(peer.seal(HANDSHAKE, part), () => {})
      expect(layer.canLeave).toBe(false)
    }
    layer.receive(peer.seal(HANDSHAKE, message.subarray(4)), () => {})
    expect(layer.canLeave).toBe(true)
  })

  it('takes the next key before the present one is worn out', () => {
    const state = stateOf(AES128, { writeSequence: 2 ** 23 - 1 })
    const [layer, peer] = [new RecordLayer(state), new TlsPeer(state)]
    for (let i = 0; i < 3; i++) peer.read(Buffer.concat(layer.seal(Buffer.from('x'))))
    expect(peer).toMatchObject({ updates: 1, received: Buffer.from('xxx') })
  })

  it('has no key any more when it has given its position, and gives no key that was used', () => {
    const state = stateOf(AES128)
    const layer = new RecordLayer(state)
    const given = layer.takeState(Buffer.alloc(0))
    expect(() => layer.seal(Buffer.from('x'))).toThrow('no sequence number')
    const opened: Buffer[] = []
    layer.receive(new TlsPeer(state).seal(DATA, Buffer.of(1)), content => opened.push(content))
    expect(opened).toEqual([])
    expect(given.writeSecret).not.toEqual(state.writeSecret)
    expect(given).toMatchObject({ writeSequence: 0, readSecret: state.readSecret })
    // Nothing was sealed with the key: the client gets one KeyUpdate, not two.
    const again = new RecordLayer(given).takeState(Buffer.alloc(0))
    expect(again).toEqual(given)
  })
})

test('a move within the process gives up at its limit', async () => {
  const context = tls.createSecureContext({ cert: CERTIFICATE, key: KEY })
  expect(await movesTls(context)).toBe('works')
  expect(await movesTls(context, 0)).toBe('unknown')
})

test.each([
  ['KeyUpdates', (peer: TlsPeer) => peer.keyUpdate(0)],
  ['alerts "user_canceled"', (peer: TlsPeer) => peer.seal(ALERT, Buffer.of(1, 90))],
])('a client may not send %s without data for ever', (_, record) => {
  const state = stateOf(AES128)
  const [layer, peer] = [new RecordLayer(state), new TlsPeer(state)]
  const records = (count: number) => Buffer.concat(Array.from({ length: count }, () => record(peer)))
  for (const text of ['one', 'two'])
    expect(opened(layer, Buffer.concat([records(32), peer.seal(DATA, Buffer.from(text))]))).toEqual(
      Buffer.from(text),
    )
  expect(alertOf(layer, records(33))).toBe(10)
})
