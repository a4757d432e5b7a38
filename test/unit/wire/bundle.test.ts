import { describe, expect, it } from 'vitest'
import { OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { fdbroker } from '../../../src/proto/wire.js'
import { packBundle, unpackFds, type WireFds } from '../../../src/wire/bundle.js'
import { checkDecodeCost } from '../../../src/wire/decode-cost.js'

const { Envelope } = fdbroker.wire

/** A message with one descriptor, as it is sent. */
function packed(fd: OwnedFd): WireFds {
  for (const { message } of packBundle([{ role: 'named', name: 'held', fd }])) return message
  throw new Error('no message')
}

describe('a bundle of descriptors', () => {
  it('arrives with what each is for', () => {
    using fd = OwnedFd.own(native.memfd('held'), 'held')
    const [item] = unpackFds(packed(fd), [fd.dup()])
    expect(item).toMatchObject({ role: 'named', name: 'held' })
    item!.fd.close()
  })

  it('fails and closes when a descriptor differs from its announcement, though it is of the same kind', () => {
    using announced = OwnedFd.own(native.memfd('held'), 'announced')
    const sent = OwnedFd.own(native.memfd('held'), 'sent')
    expect(() => unpackFds(packed(announced), [sent])).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_FD_MISMATCH', message: expect.stringContaining('"held"') }),
    )
    expect(sent.closed).toBe(true)
  })

  it('with long names is split, so that the receiver takes each message', () => {
    using fd = OwnedFd.own(native.memfd('held'), 'held')
    // A name of 256 characters as a daemon encodes it for its successor.
    const name = encodeURIComponent('名'.repeat(256))
    const items = Array.from({ length: 600 }, (_, i) => ({ role: 'named', name: `${name}${i}`, fd }) as const)
    const messages = [...packBundle(items)].map(({ message }) => message)
    for (const message of messages) checkDecodeCost(Envelope.encode({ fds: message }).finish())
    expect(messages.flatMap(message => message.items!.map(item => item.name))).toEqual(
      items.map(item => item.name),
    )
    expect(messages.map(({ index }) => index)).toEqual(messages.map((_, i) => i))
    expect(messages.map(({ last }) => last)).toEqual(messages.map((_, i) => i === messages.length - 1))
  })

  it('of a newer version may hold what is not known here: that is no named descriptor, and is closed by who takes it', () => {
    using fd = OwnedFd.own(native.memfd('newer'), 'newer')
    const message = packed(fd)
    const items = message.items!.map(item => ({ ...item, role: 99 }))
    const [item] = unpackFds({ ...message, items }, [fd.dup()])
    expect(item!.role).toBe('unknown')
    item!.fd.close()
  })
})
