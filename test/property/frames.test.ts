import { describe, expect, it } from 'vitest'
import { FdbError } from '../../src/errors.js'
import { closeAll, MAX_FDS_PER_MESSAGE, OwnedFd } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { encodeFrame, type FrameLimits, HEADER_BYTES } from '../../src/wire/frame.js'
import { FrameDecoder } from '../../src/wire/frame-decoder.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'
import { channelPair } from '../processes/channel-pair.js'

/** The bytes that one sendmsg put into the socket. */
interface Sent {
  bytes: Buffer
  fds: number[]
}

/** A model of recvmsg on a Unix stream: merges what has no descriptors, stops after what has some. */
function receive(queue: Sent[], room: number): Sent {
  const parts: Buffer[] = []
  let left = room
  while (left > 0 && queue.length > 0) {
    const head = queue[0]!
    const fds = head.fds
    const take = Math.min(left, head.bytes.length)
    parts.push(head.bytes.subarray(0, take))
    left -= take
    if (take === head.bytes.length) queue.shift()
    else queue[0] = { bytes: head.bytes.subarray(take), fds: [] }
    if (fds.length > 0) return { bytes: Buffer.concat(parts), fds }
  }
  return { bytes: Buffer.concat(parts), fds: [] }
}

/** Cuts one frame into sendmsg calls at `cuts` and spreads its descriptors over them by `weights`, in order. */
function transmit(frame: Buffer, fds: number[], cuts: number[], weights: number[]): Sent[] {
  const at = [...new Set(cuts.map(cut => cut % frame.length))].filter(cut => cut > 0).sort((a, b) => a - b)
  const pieces = [0, ...at].map((from, i) => frame.subarray(from, at[i] ?? frame.length))
  let next = 0
  const sent = pieces.map((bytes, i) => {
    const most = Math.min(MAX_FDS_PER_MESSAGE, fds.length - next)
    const count = Math.min(most, weights[i % weights.length]!)
    next += count
    return { bytes, fds: fds.slice(next - count, next) }
  })
  for (let i = 0; next < fds.length; i = (i + 1) % sent.length) {
    // The rest goes beside the last piece that has room; dealing them out again restores the order.
    if (sent[i]!.fds.length === MAX_FDS_PER_MESSAGE) continue
    sent[i]!.fds.push(fds[next++]!)
  }
  let dealt = 0
  for (const piece of sent) piece.fds = piece.fds.map(() => fds[dealt++]!)
  return sent
}

const message = fc.record({
  payload: fc.uint8Array({ maxLength: 400 }),
  fds: fc.oneof(
    { weight: 3, arbitrary: fc.integer({ min: 0, max: 3 }) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: 500 }) },
  ),
  cuts: fc.array(fc.nat(500), { minLength: 2, maxLength: 12 }),
  weights: fc.array(fc.integer({ min: 0, max: 260 }), { minLength: 1, maxLength: 4 }),
})

describe('frames', () => {
  it('any cutting of the bytes and any batching of the descriptors gives the same messages', () => {
    fc.assert(
      fc.property(
        fc.array(message, { maxLength: 8 }),
        fc.array(fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 2000 })), {
          minLength: 1,
          maxLength: 20,
        }),
        (messages, rooms) => {
          let nextFd = 1000
          const queue: Sent[] = []
          const expected = messages.map(({ payload, fds: count, cuts, weights }) => {
            const fds = Array.from({ length: count }, () => nextFd++)
            // Enough pieces for the batches: cut between the header bytes too.
            const more = count > MAX_FDS_PER_MESSAGE ? [1, 2, 3] : []
            queue.push(...transmit(encodeFrame(payload, count), fds, [...cuts, ...more], weights))
            return { payload: Buffer.from(payload), fds }
          })
          const decoder = new FrameDecoder<number>()
          const got: { payload: Buffer; fds: number[] }[] = []
          for (let i = 0; queue.length > 0; i++) {
            const { bytes, fds } = receive(queue, rooms[i % rooms.length]!)
            decoder.push(bytes, fds)
            for (let frame = decoder.next(); frame !== null; frame = decoder.next()) got.push(frame)
          }
          expect(got).toEqual(expected)
          expect(decoder.midFrame).toBe(false)
          expect(decoder.takeFds()).toEqual([])
        },
      ),
      { seed: 20, numRuns: perLane(200, 400) },
    )
  })

  it('the kernel itself agrees: channels deliver any mixture of sizes and descriptors, and leak none', async () => {
    const before = native.openCount()
    const some = OwnedFd.own(native.memfd('some'), 'some')
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            size: fc.oneof(fc.nat(50), fc.nat(300_000)),
            fds: fc.oneof(fc.nat(2), fc.nat(600)),
          }),
          { minLength: 1, maxLength: 8 },
        ),
        async messages => {
          const [a, b] = channelPair()
          const got: { size: number; fds: number; intact: boolean }[] = []
          const ended = new Promise<unknown>(resolve => {
            b.start({
              message: (payload, fds) => {
                const intact =
                  payload.length === 0 || payload.equals(Buffer.alloc(payload.length, payload[0]))
                got.push({ size: payload.length, fds: fds.length, intact })
                closeAll(fds)
              },
              end: resolve,
            })
          })
          await Promise.all(
            messages.map(({ size, fds }, i) => a.send(Buffer.alloc(size, i), Array<OwnedFd>(fds).fill(some))),
          )
          await a.close()
          expect(await ended).toBeNull()
          expect(got).toEqual(messages.map(message => ({ ...message, intact: true })))
        },
      ),
      { seed: 22, numRuns: 60 },
    )
    some.close()
    expect(native.openCount()).toBe(before)
  })

  it('no descriptor is lost or doubled, whatever a hostile peer sends', () => {
    const chunk = fc.record({
      bytes: fc.oneof(
        fc.uint8Array({ maxLength: 40 }),
        fc
          .tuple(fc.uint8Array({ maxLength: 20 }), fc.nat(4))
          .map(([payload, fds]) => new Uint8Array(encodeFrame(payload, fds))),
      ),
      fds: fc.nat(5),
    })
    fc.assert(
      fc.property(fc.array(chunk, { maxLength: 12 }), chunks => {
        const decoder = new FrameDecoder<number>({ payloadBytes: 64, fds: 4, queuedFds: 8 })
        const given: number[] = []
        const taken: number[] = []
        try {
          for (const { bytes, fds: count } of chunks) {
            const fds = Array.from({ length: count }, (_, i) => given.length + i)
            given.push(...fds)
            decoder.push(bytes, fds)
            for (let frame = decoder.next(); frame !== null; frame = decoder.next()) {
              taken.push(...frame.fds)
              expect(frame.payload.length).toBeLessThanOrEqual(64)
            }
          }
        } catch (error) {
          if (!FdbError.is(error)) throw error
        }
        expect([...taken, ...decoder.takeFds()]).toEqual(given)
      }),
      { seed: 21, numRuns: perLane(250, 500) },
    )
  })

  it('recognises bytes of another protocol at the first one', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 255 }), byte => {
        const decoder = new FrameDecoder<number>()
        decoder.push(Uint8Array.of(byte))
        if (byte === 0xfd) expect(decoder.next()).toBeNull()
        else expect(() => decoder.next()).toThrow(expect.objectContaining({ code: 'ERR_FDB_NOT_FD_BROKER' }))
      }),
    )
  })

  it('another version of the framing is refused by name', () => {
    const decoder = new FrameDecoder<number>()
    decoder.push(Uint8Array.of(0xfd, 9))
    expect(() => decoder.next()).toThrow(/framing version 9, this side 1/)
  })

  const tooMuch: [string, Partial<FrameLimits>, number, number, string, number, number][] = [
    ['payload', { payloadBytes: 100 }, 101, 0, 'ERR_FDB_FRAME_TOO_LARGE', 100, 101],
    ['descriptors', { fds: 2 }, 0, 3, 'ERR_FDB_FRAME_TOO_MANY_FDS', 2, 3],
  ]
  for (const [what, limits, bytes, fds, code, limit, got] of tooMuch) {
    it(`a header that announces too much ${what} is refused before its payload comes, with limit and got`, () => {
      const decoder = new FrameDecoder<number>(limits)
      decoder.push(encodeFrame(Buffer.alloc(bytes), fds).subarray(0, HEADER_BYTES))
      expect(() => decoder.next()).toThrow(expect.objectContaining({ code, details: { limit, got } }))
    })
  }

  it('an announced payload costs memory only as its bytes come', () => {
    const decoder = new FrameDecoder<number>({ payloadBytes: 0xffffffff })
    const header = encodeFrame(Buffer.alloc(0), 0)
    header.writeUInt32LE(0xffffffff, 4)
    const before = process.memoryUsage().arrayBuffers
    decoder.push(header)
    expect(decoder.next()).toBeNull()
    decoder.push(Buffer.alloc(1000))
    expect(decoder.next()).toBeNull()
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1024 * 1024)
  })

  it('descriptors that no frame claims, or that are missing, break the stream', () => {
    const surplus = new FrameDecoder<number>()
    surplus.push(encodeFrame(Buffer.from('x'), 1), [1, 2])
    expect(surplus.next()?.fds).toEqual([1])
    expect(() => surplus.next()).toThrow(expect.objectContaining({ code: 'ERR_FDB_FDS_UNEXPECTED' }))
    expect(surplus.takeFds()).toEqual([2])
    const short = new FrameDecoder<number>()
    short.push(encodeFrame(Buffer.from('x'), 2), [1])
    expect(() => short.next()).toThrow(expect.objectContaining({ code: 'ERR_FDB_FDS_MISSING' }))
    expect(short.takeFds()).toEqual([1])
  })
})
