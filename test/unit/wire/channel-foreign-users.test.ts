import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { UserQuotas } from '../../../src/daemon/user-quotas.js'
import type { FdbError } from '../../../src/errors.js'
import { closeAll, memoryFile, type OwnedFd, sendMessage, socketPair } from '../../../src/kernel/index.js'
import { fdbroker } from '../../../src/proto/wire.js'
import { Channel } from '../../../src/wire/channel.js'
import { encodeFrame, SMALL_FRAMES } from '../../../src/wire/frame.js'
import { Link } from '../../../src/wire/link.js'
import { until } from '../../processes/until.js'

const OTHER = 12_001

/** A channel of another user in a daemon that may have `soft` descriptors, and the user's end. */
function open(quotas = new UserQuotas(1_024), uid = OTHER) {
  const foreignUser = quotas.foreignUserOf(uid)!
  const [a, b] = socketPair('channel')
  const [host, user] = [new Channel(a, { foreignUser }), new Channel(b)]
  const got: { bytes: number; fds: OwnedFd[] }[] = []
  const ended = new Promise<string | undefined>(resolve =>
    host.start({
      message: ({ length }, fds) => void got.push({ bytes: length, fds }),
      end: error => resolve(error?.code),
    }),
  )
  user.start({ message: () => {}, end: () => {} })
  onTestFinished(async () => {
    for (const { fds } of got) closeAll(fds)
    await Promise.all([host.close(), user.close()])
    // The next test counts the descriptors of the same users.
    await until('all descriptors are closed', () => foreignUser.fds.count === 0)
  })
  const fds = (count: number) => {
    const files = Array.from({ length: count }, () => memoryFile('x', 'x'))
    onTestFinished(() => closeAll(files))
    return files
  }
  return { quotas, foreignUser, host, user, got, ended, fds }
}

describe('the channel of another user', () => {
  it('takes small frames at first, and large ones when the user may send them', async () => {
    const first = open()
    void first.user.send(Buffer.alloc(SMALL_FRAMES.payloadBytes + 1)).catch(() => {})
    expect(await first.ended).toBe('ERR_FDB_FRAME_TOO_LARGE')
    const many = open()
    void many.user.send(Buffer.alloc(1), many.fds(SMALL_FRAMES.fds + 1)).catch(() => {})
    expect(await many.ended).toBe('ERR_FDB_FDS_UNEXPECTED')

    const { host, user, got, fds } = open()
    await user.send(Buffer.alloc(SMALL_FRAMES.payloadBytes), fds(SMALL_FRAMES.fds))
    await until('it has come', () => got.length === 1)
    host.allow({})
    await user.send(Buffer.alloc(1_000_000), fds(20))
    await until('it has come', () => got.length === 2)
    expect(got.map(({ bytes, fds }) => [bytes, fds.length])).toEqual([
      [SMALL_FRAMES.payloadBytes, SMALL_FRAMES.fds],
      [1_000_000, 20],
    ])
  })

  it('ends when the user has sent more descriptors than its share, wherever they are, and not before', async () => {
    const { quotas, foreignUser, host, user, got, ended, fds } = open()
    host.allow({})
    const other = open(quotas)
    for (let i = 0; i < 4; i++) await user.send(Buffer.alloc(1), fds(12))
    await until('they have come', () => got.length === 4)
    expect(foreignUser.fds.count).toBe(48)
    expect([foreignUser.demandFds(), foreignUser.demandKept()]).toEqual([
      null,
      expect.objectContaining({ code: 'ERR_FDB_SHARE' }),
    ])
    await other.user.send(Buffer.alloc(1), fds(16))
    await until('they have come', () => other.got.length === 1)
    await user.send(Buffer.alloc(1), fds(1))
    expect(await ended).toBe('ERR_FDB_SHARE')
    // A share that is given back is a share again.
    for (const { fds } of got.splice(0)) closeAll(fds)
    await until('they are closed', () => foreignUser.fds.count === 16)
    await other.user.send(Buffer.alloc(1), fds(16))
    await until('they have come', () => other.got.length === 2)
  })

  it('ends when all other users together have sent too many', async () => {
    const quotas = new UserQuotas(1_024)
    for (let i = 0; i < 4; i++) {
      const { host, user, got, fds } = open(quotas, OTHER + i)
      host.allow({})
      await user.send(Buffer.alloc(1), fds(60))
      await until('they have come', () => got.length === 1)
    }
    const { host, user, ended, fds } = open(quotas, OTHER + 4)
    host.allow({})
    await user.send(Buffer.alloc(1), fds(17))
    expect(await ended).toBe('ERR_FDB_SHARE')
  })

  it('ends when the user’s incomplete frames take more memory than its share', async () => {
    const quotas = new UserQuotas(1_024)
    const { host, user, ended } = open(quotas)
    const half = open(quotas)
    half.host.allow({})
    host.allow({})
    const holding = quotas.foreignUserOf(OTHER)!
    // Another connection of the user holds nearly all.
    expect(holding.holdBytes(64 * 1024 * 1024 - 100_000)).toBe(null)
    void user.send(Buffer.alloc(10_000_000)).catch(() => {})
    expect(await ended).toBe('ERR_FDB_SHARE')
    holding.holdBytes(-(64 * 1024 * 1024 - 100_000))
    await half.user.send(Buffer.alloc(10_000_000))
    await until('it has come', () => half.got.length === 1)
  })

  it('ends when a frame stays incomplete, however little of it has come', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    // Else a slow machine uses up the user's time, and the channel reads on only after a timer.
    stopClock()
    const [a, b] = socketPair('half')
    onTestFinished(() => b.close())
    const host = new Channel(a, { foreignUser: new UserQuotas(1_024).foreignUserOf(OTHER) })
    let [code, got]: [unknown, number] = [undefined, 0]
    host.start({ message: () => void got++, end: error => (code = error?.code) })
    const send = (frame: number[]) => sendMessage(b, Uint8Array.from(frame), 0, frame.length, [])
    const turn = () => new Promise(resolve => setImmediate(resolve))
    send([0xfd, 1, 0, 0, 1, 0, 0, 0, 7, 0xfd])
    while (got === 0) await turn()
    await vi.advanceTimersByTimeAsync(9_000)
    send([1, 0, 0, 1, 0, 0, 0, 7, 0xfd])
    while (got === 1) await turn()
    await vi.advanceTimersByTimeAsync(9_000)
    expect(code).toBe(undefined)
    await vi.advanceTimersByTimeAsync(1_001)
    expect(code).toBe('ERR_FDB_DEADLINE')
  })

  /** A link of another user, and the user's end, which sends parts of bundles. */
  function bundles() {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    stopClock()
    const [a, b] = socketPair('late')
    const link = new Link(new Channel(a, { foreignUser: new UserQuotas(1_024).foreignUserOf(OTHER) }))
    onTestFinished(() => {
      link.close()
      b.close()
    })
    const seen = { code: '', bundles: 0 }
    const failed = (error: FdbError | null) => void (seen.code = error?.code ?? '')
    link.start({ message: () => {}, bundle: () => seen.bundles++, broken: failed, end: failed })
    return {
      seen,
      send: (frame: Uint8Array) => sendMessage(b, frame, 0, frame.length, []),
      part: (index: number, last: boolean) =>
        encodeFrame(fdbroker.wire.Envelope.encode({ fds: { bundle: 1, index, last } }).finish(), 0),
      turns: async () => {
        for (let turn = 0; turn < 20; turn++) await new Promise(resolve => setImmediate(resolve))
      },
    }
  }

  it('does not end when the rest of a frame, or of a bundle, has come in time, which this process, as it was stopped, reads late', async () => {
    const { part, seen, send, turns } = bundles()
    send(part(0, false))
    const rest = part(1, true)
    send(rest.subarray(0, 9))
    await turns()
    send(rest.subarray(9))
    vi.advanceTimersByTime(30_001)
    await turns()
    expect(seen).toEqual({ code: '', bundles: 1 })
  })

  it('ends when a bundle stays incomplete', async () => {
    const { part, seen, send, turns } = bundles()
    send(part(0, false))
    await turns()
    vi.advanceTimersByTime(30_001)
    await turns()
    expect(seen).toEqual({ code: 'ERR_FDB_DEADLINE', bundles: 0 })
  })

  it('ends when its answers, which the user does not read, take more than its share', async () => {
    const quotas = new UserQuotas(1_024)
    const [a, b] = socketPair('mute')
    const mute = new Channel(a, { foreignUser: quotas.foreignUserOf(OTHER) })
    onTestFinished(() => {
      void mute.close()
      b.close()
    })
    let code: unknown
    mute.start({ message: () => {}, end: error => (code = error?.code) })
    for (let i = 0; i < 7 && code === undefined; i++)
      void mute.send(Buffer.alloc(10_000_000)).catch(error => (code ??= error.code))
    await until('it has ended', () => code)
    expect(['ERR_FDB_SHARE', 'ERR_FDB_CHANNEL_FULL']).toContain(code)
  })
})

/** Stops the clock: what a test has spent does not come back while the machine is busy. */
function stopClock() {
  const now = performance.now()
  const clock = vi.spyOn(performance, 'now').mockReturnValue(now)
  onTestFinished(() => clock.mockRestore())
  return { goOn: () => clock.mockRestore(), pass: (ms: number) => clock.mockReturnValue(now + ms) }
}

describe('the time of another user', () => {
  it('has a bound for all of its connections together, and comes back', async () => {
    const quotas = new UserQuotas(1_024)
    const foreignUser = quotas.foreignUserOf(OTHER)!
    expect(foreignUser.waitMs).toBe(0)
    const clock = stopClock()
    foreignUser.spend(60)
    // 40 ms too many, at a fifth of the time.
    expect(foreignUser.waitMs).toBeGreaterThan(100)
    expect(quotas.foreignUserOf(OTHER)!.waitMs).toBeGreaterThan(100)
    expect(quotas.foreignUserOf(OTHER + 1)!.waitMs).toBeLessThan(150)
    clock.goOn()
    const { user, got } = open(quotas)
    await user.send(Buffer.alloc(1))
    await until('it is read', () => got.length === 1)
    // The read has taken a part of the time that had just come back.
    await until('the rest comes back', () => foreignUser.waitMs === 0)
    expect(quotas.foreignUserOf(0)).toBe(undefined)
  })

  it('has a bound for all other users together, but does not run out for a user that takes little', () => {
    stopClock()
    const quotas = new UserQuotas(1_024)
    const users = [0, 1, 2].map(number => quotas.foreignUserOf(OTHER + number)!)
    for (const user of users.slice(0, 2)) user.spend(100)
    users[2]!.spend(3)
    expect(users[2]!.waitMs).toBe(0)
    users[2]!.spend(10)
    expect(users[2]!.waitMs).toBeGreaterThan(100)
  })

  it('includes the answers, which are made after the handler of a request has returned', async () => {
    const clock = stopClock()
    const foreignUser = new UserQuotas(1_024).foreignUserOf(OTHER)!
    const [a, b] = socketPair('answers')
    const [host, user] = [new Channel(a, { foreignUser }), new Channel(b)]
    onTestFinished(() => void Promise.all([host.close(), user.close()]))
    const answered = new Promise<void>(resolve => {
      const answer = async () => {
        for (let i = 0; i < 10; i++) await null
        clock.pass(40)
        setImmediate(resolve)
      }
      host.start({ message: () => void answer(), end: () => {} })
    })
    await user.send(Buffer.alloc(1))
    await answered
    // At least 32 ms too many, at a fifth of the time.
    expect(foreignUser.waitMs).toBeGreaterThan(100)
  })

  it('makes the connections wait, in order and within a limit, while it is used up', async () => {
    const quotas = new UserQuotas(1_024)
    const [busy, quiet] = [quotas.foreignUserOf(OTHER)!, quotas.foreignUserOf(OTHER + 1)!]
    const clock = stopClock()
    busy.spend(18)
    const served: number[] = []
    const taken = Array.from({ length: 20 }, (_, number) => busy.inTurn(() => void served.push(number)))
    expect(taken).toEqual([...Array(16).fill(true), ...Array(4).fill(false)])
    expect(served).toEqual([])
    let others = 0
    expect(quiet.inTurn(() => void others++)).toBe(true)
    expect(others).toBe(1)
    clock.goOn()
    await until('all that wait are served', () => served.length === 16)
    expect(served).toEqual(taken.slice(0, 16).map((_, number) => number))
    expect(busy.inTurn(() => void others++)).toBe(true)
    expect(others).toBe(2)
  })

  it('leaves all other users together room for 64 connections that wait, however many have waited before', async () => {
    const busy = new UserQuotas(1_024).foreignUserOf(OTHER)!
    for (let round = 0; round < 5; round++) {
      const clock = stopClock()
      busy.spend(9)
      let served = 0
      const taken = Array.from({ length: 16 }, () => busy.inTurn(() => void served++))
      expect([round, taken.every(Boolean), served]).toEqual([round, true, 0])
      clock.goOn()
      await until('all that wait are served', () => served === 16)
    }
  })
})
