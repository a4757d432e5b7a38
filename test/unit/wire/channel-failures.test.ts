import { spawnSync } from 'node:child_process'
import { describe, expect, it } from 'vitest'
import type { FdbError } from '../../../src/errors.js'
import { OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { Channel } from '../../../src/wire/channel.js'
import { channelPair } from '../../processes/channel-pair.js'

const silent = { message: () => {}, end: () => {} }

function ended(channel: Channel): Promise<FdbError | null> {
  return new Promise(resolve => channel.start({ message: () => {}, end: resolve }))
}

/** SO_PASSRIGHTS off (Linux 6.16); false where this cannot be done. */
function takesNoDescriptors(socket: number): boolean {
  const script = 'open(S, "+<&=3") or exit 1; setsockopt(S, 1, 83, pack("i", 0)) or exit 1'
  return spawnSync('perl', ['-e', script], { stdio: ['ignore', 'ignore', 'ignore', socket] }).status === 0
}

describe('a channel', () => {
  it('has one handler', async () => {
    const [a, b] = channelPair()
    a.start(silent)
    expect(() => a.start(silent)).toThrow(expect.objectContaining({ code: 'ERR_FDB_CHANNEL_STARTED' }))
    await Promise.all([a.close(), b.close()])
  })

  it.each([-1, 1.5, Number.NaN, 2 ** 32])('has no limit of %d', bytes => {
    expect(() => channelPair({ limits: { payloadBytes: bytes } })).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_LIMIT', message: expect.stringContaining('payloadBytes') }),
    )
  })

  it('ends as reset if its peer closes it with messages unread: they may be lost', async () => {
    const [a, b] = channelPair()
    const end = ended(a)
    await a.send(Buffer.from('never read'))
    await b.close()
    expect(await end).toMatchObject({ code: 'ERR_FDB_CHANNEL_RESET' })
  })

  it('over what was never connected ends with the system’s own word', async () => {
    const name = `fdb-channel-${process.pid}`
    const unconnected = native.bindSocket({ kind: 'unix', host: name, abstract: true })
    const end = ended(new Channel(OwnedFd.own(unconnected, 'unconnected')))
    expect(await end).toMatchObject({ code: 'ERR_FDB_RECEIVE', cause: { code: 'EINVAL' } })
  })

  it('tells the system’s own word when it cannot send', async () => {
    const raw = native.bindSocket({ kind: 'udp', host: '127.0.0.1', port: 0 })
    const channel = new Channel(OwnedFd.own(raw, 'to nobody'))
    await expect(channel.send(Buffer.from('x'))).rejects.toMatchObject({
      code: 'ERR_FDB_SEND',
      cause: { code: 'EDESTADDRREQ' },
    })
    await channel.close()
  })

  it('to a peer that takes no descriptors says so; messages without them go on', async ({ skip }) => {
    const [left, right] = native.socketPair()
    const a = new Channel(OwnedFd.own(left, 'a'))
    const b = new Channel(OwnedFd.own(right, 'b'))
    if (!takesNoDescriptors(right)) skip('no perl, or a kernel before 6.16')
    const fd = OwnedFd.own(native.memfd('x'), 'x')
    await expect(a.send(Buffer.from('with'), [fd])).rejects.toMatchObject({ code: 'ERR_FDB_FDS_REFUSED' })
    fd.close()
    const heard = new Promise<string>(resolve =>
      b.start({ ...silent, message: bytes => resolve(`${bytes}`) }),
    )
    await a.send(Buffer.from('without'))
    expect(await heard).toBe('without')
    await Promise.all([a.close(), b.close()])
  })
})
