import { fileURLToPath } from 'node:url'
import protobuf from 'protobufjs'
import { describe, expect, it } from 'vitest'
import type { FdbError } from '../../../src/errors.js'
import { closeAll, OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { fdbroker } from '../../../src/proto/wire.js'
import { type BundleItem, packBundle } from '../../../src/wire/bundle.js'
import type { Channel } from '../../../src/wire/channel.js'
import { checkDecodeCost, INNER, WITH_ITEMS } from '../../../src/wire/decode-cost.js'
import { Link, type WireBody, type WireEnvelope } from '../../../src/wire/link.js'
import { channelPair } from '../../processes/channel-pair.js'
import { pause, until } from '../../processes/until.js'
import { leastOf, workOf } from '../../processes/worked.js'

const { Envelope } = fdbroker.wire
const MIB = 1024 * 1024

function encoded(body: WireBody): Uint8Array {
  return Envelope.encode(body).finish()
}

/** A body of empty fields: two bytes each, an object each. */
function hollow(field: number, bytes: number): Buffer {
  const whole = encoded({ command: { body: Buffer.alloc(bytes) } })
  const head = whole.subarray(0, whole.length - bytes)
  // The tag of `command`, two bytes long, and the length of its body; the tag and length of the inner field follow.
  const length = Buffer.from(head.subarray(2, 2 + 4))
  const tag = Buffer.from([((field * 8 + 2) & 127) | 128, (field * 8 + 2) >> 7])
  return Buffer.concat([tag, length, Buffer.alloc(whole.length - 6, Buffer.from([0x1a, 0]))])
}

/** A field with a length: its tag, that, and what it has. */
function within(field: number, bytes: Uint8Array): Buffer {
  const writer = protobuf.Writer.create()
  writer.uint32(field * 8 + 2).bytes(bytes)
  return Buffer.from(writer.finish())
}

function taken(bytes: Uint8Array): boolean {
  try {
    checkDecodeCost(bytes)
    return true
  } catch (error) {
    expect((error as FdbError).code).toBe('ERR_FDB_MESSAGE')
    return false
  }
}

describe('a message that would be much work to decode', () => {
  it('meets a refusal before it is decoded, at once, whatever it says that it is', async () => {
    for (const field of [1, 5, 7, 22, 32, 35, 99]) {
      const bytes = hollow(field, 15 * MIB)
      // Decoding it takes 1 to 4.6 s; refusing it, a millisecond or two.
      const [worked] = await leastOf(10, async () => {
        const working = workOf()
        expect(taken(bytes), `field ${field}`).toBe(false)
        return [working()]
      })
      expect(worked).toBeLessThan(10)
    }
    expect(taken(Buffer.alloc(MIB, encoded({ gone: {} })))).toBe(false)
    expect(taken(Buffer.alloc(MIB, 0xff))).toBe(false)
    expect(taken(Buffer.alloc(MIB))).toBe(false)
  })

  it('meets a refusal where the fields are those of a message in a message, in one or in many', () => {
    for (const [body, inner] of Object.entries(INNER)) {
      const hollowInner = (bytes: number) => within(inner, Buffer.alloc(bytes, Buffer.from([0x7a, 0])))
      expect(taken(within(Number(body), hollowInner(15 * MIB))), body).toBe(false)
      const many = Buffer.concat(Array.from({ length: 20_000 }, () => hollowInner(400)))
      expect(taken(within(Number(body), many)), body).toBe(false)
    }
    for (const body of WITH_ITEMS)
      expect(taken(within(body, within(2, Buffer.alloc(MIB, Buffer.from([0x7a, 0]))))), `${body}`).toBe(false)
  })

  it('knows every message that is in a body', async () => {
    const root = await protobuf.load(fileURLToPath(new URL('../../../proto/wire.proto', import.meta.url)))
    const messagesOf = ({ fieldsArray }: protobuf.Type) =>
      fieldsArray.filter(field => field.resolve().resolvedType instanceof protobuf.Type)
    const inner: Record<number, number> = {}
    const withItems: number[] = []
    for (const { id, resolvedType } of messagesOf(root.lookupType('fdbroker.wire.Envelope')))
      for (const field of messagesOf(resolvedType as protobuf.Type)) {
        const deeper = messagesOf(field.resolvedType as protobuf.Type)
        if (deeper.length > 0) withItems.push(id)
        else inner[id] = field.id
      }
    expect(inner).toEqual(INNER)
    expect(withItems.sort((a, b) => a - b)).toEqual(WITH_ITEMS)
  })

  it('passes when it is only large', () => {
    const names = Array.from({ length: 10_000 }, (_, i) => `a listener with a rather long name ${i}`)
    const spec = 'unix:/run/a/folder/with/a/long/name/and/a/socket.sock?mode=0660&backlog=511'
    const items = names
      .slice(0, 253)
      .map(name => ({ name, spec, identity: { address: spec, cookie: '123' } }))
    for (const body of [
      { command: { name: 'put', body: Buffer.alloc(15 * MIB) } },
      { commandReply: { ok: true, body: Buffer.alloc(15 * MIB) } },
      { status: { json: ' '.repeat(8 * MIB) } },
      { ready: { adopted: names, refused: names } },
      { fds: { items, last: true } },
    ])
      expect(taken(encoded(body))).toBe(true)
  })

  it('counts field by field: the bytes of a number of eight or four bytes are no field', () => {
    // Field 99, of a later version.
    for (const [tag, bytes] of [
      [0x99, 8],
      [0x9d, 4],
    ] as const) {
      const inside = Buffer.alloc(bytes, Uint8Array.of(0x0a, 0xff, 0xff, 0x7f))
      const field = Buffer.concat([Buffer.from([tag, 6]), inside])
      expect(taken(Buffer.concat([field, encoded({ command: { body: Buffer.alloc(5_000) } }), field]))).toBe(
        true,
      )
    }
  })
})

describe('descriptors that a peer sends', () => {
  function pair(handler: { bundle?(): void }): {
    far: Channel
    link: Link
    told: (FdbError | WireEnvelope)[]
  } {
    const [far, near] = channelPair()
    const link = new Link(near)
    const told: (FdbError | WireEnvelope)[] = []
    link.start({
      message: (envelope, fds) => {
        closeAll(fds)
        told.push(envelope)
      },
      broken: error => void told.push(error),
      end: () => {},
      ...handler,
    })
    far.start({ message: (_payload, fds) => closeAll(fds), end: () => {} })
    return { far, link, told }
  }

  async function sendOne(far: Channel, bundle: number): Promise<void> {
    const fd = OwnedFd.own(native.memfd('x'), 'x')
    for (const { message, fds } of packBundle([{ role: 'named', name: 'x', fd }]))
      await far.send(encoded({ fds: { ...message, bundle, last: false } }), fds)
    fd.close()
  }

  it('where none are taken are closed, bundle by bundle', async () => {
    const { far, link, told } = pair({})
    const before = native.openCount()
    for (let bundle = 0; bundle < 100; bundle++) await sendOne(far, bundle)
    await far.send(encoded({ gone: {} }))
    await until('all is read', () => told.length === 1)
    expect(native.openCount()).toBe(before)
    link.close()
    await far.close()
  })

  it('go no faster than they are taken: two batches are on their way at most', async () => {
    const [near, far] = channelPair()
    const link = new Link(near)
    link.start({ message: () => {}, broken: () => {}, end: () => {} })
    const heard: { index: number; bundle: number }[] = []
    far.start({
      message: (payload, fds) => {
        closeAll(fds)
        const { index, bundle } = Envelope.decode(payload).fds!
        heard.push({ index: index ?? 0, bundle: bundle ?? 0 })
      },
      end: () => {},
    })
    const fd = OwnedFd.own(native.memfd('x'), 'x')
    const items = Array.from(
      { length: 3 * 253 + 1 },
      (_, i) => ({ role: 'named', name: `${i}`, fd }) as const,
    )
    const sent = link.sendBundle(items, 10_000)
    for (let acknowledged = 0; acknowledged < 4; acknowledged++) {
      const most = Math.min(acknowledged + 2, 4)
      await until('they come', () => heard.length === most)
      await pause(10)
      expect(heard.map(({ index }) => index)).toEqual(Array.from({ length: most }, (_, i) => i))
      await far.send(encoded({ fdsAck: heard[acknowledged]! }))
    }
    await sent
    fd.close()
    link.close()
    await far.close()
  })

  it('in bundles that end are as many as there are: only those of bundles without their end are counted', async () => {
    let taken = 0
    const { far, link, told } = pair({
      bundle: ((items: BundleItem[]) => {
        closeAll(items.map(({ fd }) => fd))
        taken += items.length
      }) as () => void,
    })
    const fd = OwnedFd.own(native.memfd('x'), 'x')
    const [batch] = packBundle(Array.from({ length: 253 }, () => ({ role: 'named', name: 'x', fd }) as const))
    for (let bundle = 0; taken <= 100_000; bundle++) {
      await far.send(encoded({ fds: { ...batch!.message, bundle, last: true } }), batch!.fds)
      if (bundle % 8 === 0)
        await until('they are taken', () => taken === (bundle + 1) * 253 || told.length > 0)
      expect(told).toEqual([])
    }
    fd.close()
    link.close()
    await far.close()
  })

  it('in bundles that never end are bounded', async () => {
    const { far, link, told } = pair({ bundle: () => {} })
    const before = native.openCount()
    for (let bundle = 0; bundle < 65; bundle++) await sendOne(far, bundle)
    await until('it is told', () => told.length > 0)
    expect(told[0]).toMatchObject({ code: 'ERR_FDB_FDS_MANY' })
    expect(native.openCount()).toBe(before)
    link.close()
    await far.close()
  })
})
