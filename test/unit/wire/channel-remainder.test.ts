import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { receiveMessage, socketPair } from '../../../src/kernel/index.js'
import { Channel } from '../../../src/wire/channel.js'
import { frameLimits } from '../../../src/wire/frame.js'
import { FrameDecoder } from '../../../src/wire/frame-decoder.js'
import { Outbound } from '../../../src/wire/outbound.js'
import { Pending } from '../../../src/wire/pending.js'
import { channelPair } from '../../processes/channel-pair.js'
import { until } from '../../processes/until.js'

afterEach(() => void vi.useRealTimers())

const turn = () => new Promise(resolve => setImmediate(resolve))

describe('an answer that has come', () => {
  it('leaves neither its limit nor a listener of its signal behind', () => {
    vi.useFakeTimers()
    const { signal } = new AbortController()
    const [added, removed] = [vi.spyOn(signal, 'addEventListener'), vi.spyOn(signal, 'removeEventListener')]
    const pending = new Pending<number>({ signal }).limit(1_000, () => {})
    expect(vi.getTimerCount()).toBe(1)
    pending.resolve(1)
    expect(vi.getTimerCount()).toBe(0)
    expect(removed).toHaveBeenCalledTimes(added.mock.calls.length)
  })
})

describe('a channel', () => {
  it('leaves no timer behind once its peer has read all', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const [ours, theirs] = socketPair('slow')
    const channel = new Channel(ours)
    channel.start({ message: () => {}, end: () => {} })
    onTestFinished(() => {
      void channel.close()
      theirs.close()
    })
    let sent = false
    void channel.send(Buffer.alloc(4 << 20)).then(() => {
      sent = true
    })
    expect(vi.getTimerCount()).toBe(1)
    const room = Buffer.alloc(1 << 20)
    while (!sent) {
      receiveMessage(theirs, room)
      await turn()
    }
    expect(vi.getTimerCount()).toBe(0)
  })

  it('tells of each frame that is late by its own time, also of one that waited behind another', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    const [ours, theirs] = socketPair('slow')
    const channel = new Channel(ours, { sendTimeoutMs: 1_000 })
    onTestFinished(() => {
      void channel.close()
      theirs.close()
    })
    const ended = new Promise(resolve => channel.start({ message: () => {}, end: resolve }))
    let sent = false
    void channel.send(Buffer.alloc(4 << 20)).then(() => {
      sent = true
    })
    vi.advanceTimersByTime(600)
    let late: unknown
    channel.send(Buffer.alloc(8 << 20)).catch(error => {
      late = error
    })
    const room = Buffer.alloc(1 << 20)
    while (!sent) {
      receiveMessage(theirs, room)
      await turn()
    }
    vi.advanceTimersByTime(900)
    await turn()
    expect([late, vi.getTimerCount()]).toEqual([undefined, 1])
    vi.advanceTimersByTime(101)
    await turn()
    expect(late).toMatchObject({ code: 'ERR_FDB_DEADLINE' })
    expect(await ended).toBe(late)
  })

  it('delivers no more of the bytes that were read if its handler closes it', async () => {
    const [one, other] = channelPair()
    onTestFinished(() => void one.close())
    for (const text of ['a', 'b']) void one.send(Buffer.from(text))
    const heard: string[] = []
    other.start({
      message: payload => {
        heard.push(`${payload}`)
        void other.close()
      },
      end: () => heard.push('end'),
    })
    await other.closed
    await turn()
    expect(heard).toEqual(['a'])
  })

  it('delivers bytes that were read before it was paused when it is resumed, though nothing more comes', async () => {
    const [one, other] = channelPair()
    const heard: string[] = []
    other.start({
      message: payload => {
        heard.push(`${payload}`)
        if (heard.length === 1) other.pause()
      },
      end: () => {},
    })
    for (const text of ['a', 'b', 'c']) void one.send(Buffer.from(text))
    await until('the first is there', () => heard.length === 1)
    for (let i = 0; i < 5; i++) await turn()
    expect(heard).toEqual(['a'])
    other.resume()
    await until('all are there', () => heard.length === 3)
    await one.close()
    await other.close()
  })
})

describe('frames that wait for a peer that has gone', () => {
  it('reject each by the attempt that finds it so, which throws nothing', async () => {
    const [ours, theirs] = socketPair('gone')
    onTestFinished(() => ours.close())
    const options = { limits: frameLimits(), sendTimeoutMs: 10_000, maxQueuedBytes: 64 << 20 }
    const asked: boolean[] = []
    const outbound = new Outbound(ours, options, { blocked: on => asked.push(on), broken: () => {} })
    const waiting = [outbound.send(Buffer.alloc(4 << 20)), outbound.send(Buffer.alloc(4 << 20))]
    const settled = Promise.allSettled(waiting)
    theirs.close()
    outbound.flush()
    for (const result of await settled)
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'ERR_FDB_CHANNEL_CLOSED' } })
    expect([asked.at(-1), outbound.queuedBytes]).toEqual([false, 0])
  })
})

describe('descriptors that no frame claims', () => {
  it('number as many as the limit says, and one more ends the stream', () => {
    const decoder = new FrameDecoder<number>({ queuedFds: 300 })
    const fds = Array.from({ length: 300 }, (_, n) => n)
    decoder.push(Buffer.alloc(0), fds)
    expect(() => decoder.push(Buffer.alloc(0), [300])).toThrow(/wait for their frames/)
  })
})
