import { readlinkSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import type { FdbError } from '../../../src/errors.js'
import { closeAll, OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { Channel } from '../../../src/wire/channel.js'
import { encodeFrame } from '../../../src/wire/frame.js'
import { channelPair } from '../../processes/channel-pair.js'

interface Heard {
  messages: { payload: Buffer; fds: OwnedFd[] }[]
  end: Promise<FdbError | null>
  /** Resolves when `count` messages have arrived. */
  reached(count: number): Promise<void>
}

function listen(channel: Channel): Heard {
  const waiting: { count: number; resolve: () => void }[] = []
  const messages: Heard['messages'] = []
  const end = new Promise<FdbError | null>(resolve => {
    channel.start({
      message: (payload, fds) => {
        messages.push({ payload, fds })
        for (const w of waiting) if (messages.length >= w.count) w.resolve()
      },
      end: resolve,
    })
  })
  const reached = (count: number) =>
    new Promise<void>(resolve => {
      if (messages.length >= count) resolve()
      waiting.push({ count, resolve })
    })
  return { messages, end, reached }
}

function memory(name: string): OwnedFd {
  return OwnedFd.own(native.memfd(name), name)
}

function memories(count: number): OwnedFd[] {
  return Array.from({ length: count }, (_, i) => memory(`m${i}`))
}

function nameOf(fd: OwnedFd): string {
  return /memfd:(\S+)/.exec(readlinkSync(`/proc/self/fd/${fd.raw}`))?.[1] ?? ''
}

function rawPair(): [OwnedFd, OwnedFd] {
  const [a, b] = native.socketPair()
  return [OwnedFd.own(a, 'a'), OwnedFd.own(b, 'b')]
}

describe('a channel', () => {
  it('delivers payload and descriptors whole, and leaves the sender its own', async () => {
    const [a, b] = channelPair()
    const heard = listen(b)
    const mine = memory('mine')
    await a.send(Buffer.from('hello'), [mine])
    await a.send(Buffer.alloc(0))
    await heard.reached(2)
    expect(heard.messages.map(m => m.payload.toString())).toEqual(['hello', ''])
    const [arrived] = heard.messages[0]!.fds
    expect(nameOf(arrived!)).toBe('mine')
    expect(arrived!.raw).not.toBe(mine.raw)
    expect(nameOf(mine)).toBe('mine')
    closeAll([arrived!, mine])
    await Promise.all([a.close(), b.close()])
  })

  it('keeps the order of small and large messages that are sent at once', async () => {
    const [a, b] = channelPair()
    const heard = listen(b)
    const sizes = [1, 300_000, 2, 40_000, 0, 1_000_000, 3]
    const sends = sizes.map((size, i) => a.send(Buffer.alloc(size, i)))
    expect(a.queuedBytes).toBeGreaterThan(1_000_000)
    await Promise.all(sends)
    await heard.reached(sizes.length)
    expect(a.queuedBytes).toBe(0)
    expect(heard.messages.map(m => m.payload.length)).toEqual(sizes)
    heard.messages.forEach(({ payload }, i) => {
      expect(payload.every(byte => byte === i)).toBe(true)
    })
    await Promise.all([a.close(), b.close()])
  })

  it('carries more descriptors than one kernel message takes, in order', async () => {
    const [a, b] = channelPair()
    const heard = listen(b)
    const fds = memories(700)
    await a.send(Buffer.from('x'), fds)
    await heard.reached(1)
    expect(heard.messages[0]!.fds.map(nameOf)).toEqual(fds.map((_, i) => `m${i}`))
    closeAll(fds)
    closeAll(heard.messages[0]!.fds)
    await Promise.all([a.close(), b.close()])
  })

  it('tells an orderly end from one in the middle of a message', async () => {
    const [a, b] = channelPair()
    const heard = listen(b)
    await a.send(Buffer.from('bye'))
    await a.close()
    expect(await heard.end).toBeNull()
    expect(heard.messages).toHaveLength(1)
    await b.closed

    const [raw, fd] = rawPair()
    const cut = listen(new Channel(fd))
    const frame = encodeFrame(Buffer.from('whole'), 0)
    native.sendMessage(raw.raw, frame, 0, frame.length - 1, null)
    raw.close()
    expect(await cut.end).toMatchObject({ code: 'ERR_FDB_CHANNEL_TRUNCATED' })
  })

  it('ends at the first byte of another protocol', async () => {
    const [raw, fd] = rawPair()
    const heard = listen(new Channel(fd))
    native.sendMessage(raw.raw, Buffer.from('G'), 0, 1, null)
    expect(await heard.end).toMatchObject({ code: 'ERR_FDB_NOT_FD_BROKER' })
    raw.close()
  })

  it('closes the descriptors of a message that was cut or never delivered', async () => {
    const before = native.openCount()
    const [raw, fd] = rawPair()
    const heard = listen(new Channel(fd))
    const sent = memories(3)
    const frame = encodeFrame(Buffer.from('whole'), 3)
    native.sendMessage(
      raw.raw,
      frame,
      0,
      9,
      sent.map(m => m.raw),
    )
    raw.close()
    await heard.end
    closeAll(sent)
    expect(native.openCount()).toBe(before)

    const [a, b] = channelPair()
    const one = memory('undelivered')
    b.pause()
    listen(b)
    await a.send(Buffer.from('x'), [one])
    await Promise.all([a.close(), b.close()])
    one.close()
    expect(native.openCount()).toBe(before)
  })

  it('delivers nothing and reads nothing while it is paused', async () => {
    const [a, b] = channelPair({ sendTimeoutMs: 30_000 })
    const heard: number[] = []
    let resumed = false
    let done!: () => void
    const all = new Promise<void>(resolve => {
      done = resolve
    })
    b.start({
      message: payload => {
        heard.push(payload[0]!)
        if (heard.length === 1) b.pause()
        else expect(resumed).toBe(true)
        if (heard.length === 40) done()
      },
      end: () => {},
    })
    let settled = 0
    const sends = Array.from({ length: 40 }, (_, i) => a.send(Buffer.alloc(20_000, i)).then(() => settled++))
    await sends[0]
    // The kernel's buffer is full, the reader does not read: the rest must wait, however often the loop turns.
    for (let turn = 0; turn < 100; turn++) await new Promise(resolve => setImmediate(resolve))
    expect(heard).toEqual([0])
    expect(settled).toBeLessThan(40)
    resumed = true
    b.resume()
    await all
    await Promise.all(sends)
    expect(heard).toEqual(Array.from({ length: 40 }, (_, i) => i))
    await Promise.all([a.close(), b.close()])
  })

  it('survives an exception of its handler with the following messages intact', async () => {
    const [a, b] = channelPair()
    const errors: unknown[] = []
    const others = process.listeners('uncaughtException')
    process.removeAllListeners('uncaughtException')
    process.on('uncaughtException', error => errors.push(error))
    try {
      const heard: string[] = []
      await new Promise<void>(resolve => {
        b.start({
          message: payload => {
            heard.push(payload.toString())
            if (payload.toString() === '1') throw new Error('handler')
            if (payload.toString() === '3') resolve()
          },
          end: () => {},
        })
        for (const text of ['1', '2', '3']) void a.send(Buffer.from(text))
      })
      expect(heard).toEqual(['1', '2', '3'])
      expect(errors).toMatchObject([{ message: 'handler' }])
    } finally {
      process.removeAllListeners('uncaughtException')
      for (const other of others) process.on('uncaughtException', other)
    }
    await Promise.all([a.close(), b.close()])
  })

  it('may be closed by its own handler, which hears nothing more', async () => {
    const [a, b] = channelPair()
    let heard = 0
    b.start({
      message: () => {
        heard++
        void b.close()
      },
      end: () => expect.unreachable('own close() is no end'),
    })
    await Promise.all([a.send(Buffer.from('1')), a.send(Buffer.from('2'))])
    await b.closed
    await b.close()
    expect(heard).toBe(1)
    await a.close()
  })

  it('measures how long the peer has been silent', async () => {
    const [a, b] = channelPair()
    const heard = listen(b)
    const before = performance.now()
    await a.send(Buffer.from('x'))
    await heard.reached(1)
    expect(before + b.idleMs).toBeLessThanOrEqual(performance.now())
    await Promise.all([a.close(), b.close()])
  })

  it('knows its peer from the kernel', async () => {
    const [a, b] = channelPair()
    expect(a.peer).toEqual({ pid: process.pid, uid: process.getuid!(), gid: process.getgid!() })
    await Promise.all([a.close(), b.close()])
  })

  it('gives the loop back under a flood', async () => {
    const [a, b] = channelPair()
    let heard = 0
    b.start({ message: () => heard++, end: () => {} })
    const sends: Promise<void>[] = []
    for (let i = 0; i < 20_000; i++) sends.push(a.send(Buffer.alloc(100)))
    let turns = 0
    const tick = setInterval(() => turns++, 1)
    await Promise.all(sends)
    while (heard < 20_000) await new Promise(resolve => setImmediate(resolve))
    clearInterval(tick)
    expect(turns).toBeGreaterThan(2)
    await Promise.all([a.close(), b.close()])
  })
})
