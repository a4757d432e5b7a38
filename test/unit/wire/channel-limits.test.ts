import { execFileSync } from 'node:child_process'
import { describe, expect, it } from 'vitest'
import { OwnedFd, receiveMessage, socketPair } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { Channel } from '../../../src/wire/channel.js'
import { bundled } from '../../processes/bundled.js'
import { channelPair } from '../../processes/channel-pair.js'

const silent = { message: () => {}, end: () => {} }

describe('refusals of a channel', () => {
  it('a frame over its limits, without sending a byte', async () => {
    const [a, b] = channelPair({ limits: { payloadBytes: 10, fds: 1 } })
    await expect(a.send(Buffer.alloc(11))).rejects.toMatchObject({
      code: 'ERR_FDB_FRAME_TOO_LARGE',
      details: { limit: 10, got: 11 },
    })
    const fd = OwnedFd.own(native.memfd('x'), 'x')
    await expect(a.send(Buffer.alloc(1), [fd, fd])).rejects.toMatchObject({
      code: 'ERR_FDB_FRAME_TOO_MANY_FDS',
    })
    fd.close()
    const received = new Promise<Buffer>(resolve => b.start({ ...silent, message: resolve }))
    await a.send(Buffer.from('fits'))
    expect((await received).toString()).toBe('fits')
    await Promise.all([a.close(), b.close()])
  })

  it('more than the queue may hold', async () => {
    const [a, b] = channelPair({ maxQueuedBytes: 1_000_000 })
    const first = a.send(Buffer.alloc(900_000))
    const over = a.send(Buffer.alloc(900_000))
    await expect(over).rejects.toMatchObject({
      code: 'ERR_FDB_CHANNEL_FULL',
      retryable: true,
      details: { limit: 1_000_000 },
    })
    b.start(silent)
    await first
    await Promise.all([a.close(), b.close()])
  })

  it('more frames than the queue may hold: each costs more than its bytes', async () => {
    const [a, b] = channelPair({ maxQueuedBytes: 100_000 })
    const sends: Promise<void>[] = []
    while (a.queuedBytes === 0) sends.push(a.send(Buffer.alloc(10)))
    for (let n = 0; n < 80; n++) sends.push(a.send(Buffer.alloc(10)))
    const more = Array.from({ length: 20 }, () => a.send(Buffer.alloc(10)))
    const settled = Promise.allSettled(more)
    await expect(more.at(-1)).rejects.toMatchObject({ code: 'ERR_FDB_CHANNEL_FULL' })
    b.start(silent)
    await Promise.all(sends)
    await settled
    await Promise.all([a.close(), b.close()])
  })

  it('nothing where half of what may wait does: it says so beforehand', async () => {
    const [a, b] = channelPair({ maxQueuedBytes: 2_000_000 })
    const first = a.send(Buffer.alloc(1_000_000))
    expect(a.crowded).toBe(false)
    const second = a.send(Buffer.alloc(900_000))
    expect(a.crowded).toBe(true)
    b.start(silent)
    await Promise.all([first, second])
    expect(a.crowded).toBe(false)
    await Promise.all([a.close(), b.close()])
  })

  it('a descriptor that is no socket, which it closes', () => {
    const before = native.openCount()
    expect(() => new Channel(OwnedFd.own(native.memfd('x'), 'x'))).toThrow('ENOTSOCK')
    expect(native.openCount()).toBe(before)
  })

  it('a descriptor that is closed already, alone: later messages go', async () => {
    const [a, b] = channelPair()
    const fd = OwnedFd.own(native.memfd('x'), 'x')
    fd.close()
    await expect(a.send(Buffer.from('bad'), [fd])).rejects.toBeInstanceOf(Error)
    const received = new Promise<Buffer>(resolve => b.start({ ...silent, message: resolve }))
    await a.send(Buffer.from('good'))
    expect((await received).toString()).toBe('good')
    await Promise.all([a.close(), b.close()])
  })
})

describe('a send that has to wait', () => {
  it('fails at its deadline; the channel ends because a frame was cut', async () => {
    const [a, b] = channelPair({ sendTimeoutMs: 30 })
    const ended = new Promise(resolve => a.start({ message: () => {}, end: resolve }))
    const sends = [a.send(Buffer.alloc(900_000)), a.send(Buffer.from('x'))]
    expect((await Promise.allSettled(sends)).map(r => r.status)).toEqual(['rejected', 'rejected'])
    expect(await ended).toMatchObject({ code: 'ERR_FDB_DEADLINE', retryable: true, details: { ms: 30 } })
    await b.close()
  })

  it('ends the channel at its deadline though nothing of it has gone: what comes behind may rely on it', async () => {
    const [a, b] = channelPair({ sendTimeoutMs: 30 })
    const ended = new Promise(resolve => a.start({ message: () => {}, end: resolve }))
    const sends: Promise<void>[] = []
    // Frames that are small go whole or not at all.
    while (a.queuedBytes === 0) sends.push(a.send(Buffer.alloc(1_000)))
    const late = sends.pop()!
    const behind = a.send(Buffer.from('behind'))
    await Promise.all(sends)
    await expect(late).rejects.toMatchObject({ code: 'ERR_FDB_DEADLINE', details: { ms: 30 } })
    await expect(behind).rejects.toMatchObject({ code: 'ERR_FDB_DEADLINE' })
    expect(await ended).toMatchObject({ code: 'ERR_FDB_DEADLINE' })
    const heard: number[] = []
    const whole = new Promise(resolve =>
      b.start({ message: ({ length }) => heard.push(length), end: resolve }),
    )
    expect(await whole).toBeNull()
    expect(heard).toEqual(sends.map(() => 1_000))
  })

  it('succeeds where its own process stood still: the kernel takes it by now', async () => {
    const [ours, theirs] = socketPair('stopped')
    const a = new Channel(ours, { sendTimeoutMs: 30 })
    a.start({ message: () => {}, end: error => expect.unreachable(String(error)) })
    const sends: Promise<void>[] = []
    while (a.queuedBytes === 0) sends.push(a.send(Buffer.alloc(1_000)))
    const into = Buffer.alloc(64 * 1024)
    for (const give = performance.now() + 60; performance.now() < give; ) receiveMessage(theirs, into)
    await Promise.all(sends)
    await a.close()
    theirs.close()
  })

  it('goes on where its own process stood still, also with more than the kernel takes at once', async () => {
    const [ours, theirs] = socketPair('stopped')
    const a = new Channel(ours, { sendTimeoutMs: 50 })
    a.start({ message: () => {}, end: () => {} })
    const sends = [a.send(Buffer.alloc(2 << 20)), a.send(Buffer.from('behind'))]
    const into = Buffer.alloc(64 * 1024)
    for (const give = performance.now() + 100; performance.now() < give; ) receiveMessage(theirs, into)
    let reads = true
    const read = () => {
      if (!reads) return
      for (let bytes = 1; bytes > 0; ) bytes = receiveMessage(theirs, into).bytes
      setImmediate(read)
    }
    read()
    expect((await Promise.allSettled(sends)).map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled'])
    reads = false
    await a.close()
    theirs.close()
  })

  it('fails when the peer goes away, and so do all later ones', async () => {
    const [a, b] = channelPair()
    const waiting = a.send(Buffer.alloc(900_000))
    await b.close()
    await expect(waiting).rejects.toMatchObject({ code: 'ERR_FDB_CHANNEL_CLOSED' })
    await expect(a.send(Buffer.from('x'))).rejects.toMatchObject({ code: 'ERR_FDB_CHANNEL_CLOSED' })
    await a.close()
  })

  it('fails when its own side is closed', async () => {
    const [a, b] = channelPair()
    const waiting = a.send(Buffer.alloc(900_000))
    await a.close()
    await expect(waiting).rejects.toMatchObject({ code: 'ERR_FDB_CHANNEL_CLOSED' })
    await b.close()
  })

  it('still lets what the dying peer had sent be read', async () => {
    const [a, b] = channelPair()
    await b.send(Buffer.from('last words'))
    await b.close()
    await expect(a.send(Buffer.from('x'))).rejects.toMatchObject({ code: 'ERR_FDB_CHANNEL_CLOSED' })
    const heard: string[] = []
    const end = await new Promise(resolve => {
      a.start({ message: payload => heard.push(payload.toString()), end: resolve })
    })
    expect(heard).toEqual(['last words'])
    expect(end).toBeNull()
  })
})

/** Runs a fixture with this RLIMIT_NOFILE, soft and hard (Node raises the soft one), and parses what it prints. */
function withDescriptors(limit: number, fixture: string): Record<string, unknown> {
  const script = `ulimit -n ${limit}; exec "$0" "$1"`
  const { file, env } = bundled(fixture)
  return JSON.parse(execFileSync('sh', ['-c', script, process.execPath, file], { env, encoding: 'utf8' }))
}

describe('too few descriptors', () => {
  it('at the receiver end the channel with the limit named, and nothing leaks', () => {
    expect(withDescriptors(80, 'host-few-descriptors.ts')).toEqual({
      code: 'ERR_FDB_FDS_TRUNCATED',
      message: expect.stringContaining('RLIMIT_NOFILE, hard limit 80'),
      leaked: 0,
    })
  })

  it('to accept with make a control listener pause, not spin; it accepts when there is room again', () => {
    expect(withDescriptors(80, 'host-accept-without-room.ts')).toEqual({
      code: 'ERR_FDB_ACCEPT',
      retryable: true,
      tries: 2,
      patient: true,
      waits: true,
    })
  })

  it('in flight for this user (ETOOMANYREFS): frames wait, with tries at most 50 ms apart, and all arrive in order', () => {
    expect(withDescriptors(100, 'host-many-in-flight.ts')).toEqual({
      waited: true,
      longestPause: 50,
      inOrder: true,
    })
  })
})
