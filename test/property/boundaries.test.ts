import { describe, expect, it } from 'vitest'
import { CLOSE_FRAME, EventTracker, eventText, FrameTracker } from '../../src/relay/boundaries.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const RUNS = { seed: 20_26, numRuns: perLane(125, 500) }

/** A server's frame, written in one of the ways that the length allows. */
function frame(opcode: number, fin: boolean, payload: number, wide: 0 | 2 | 8): Buffer {
  const width = wide === 0 ? (payload < 126 ? 0 : payload < 65_536 ? 2 : 8) : payload > 65_535 ? 8 : wide
  const head = Buffer.alloc(2 + width)
  head[0] = (fin ? 0x80 : 0) | opcode
  head[1] = width === 0 ? payload : width === 2 ? 126 : 127
  if (width === 2) head.writeUInt16BE(payload, 2)
  if (width === 8) head.writeBigUInt64BE(BigInt(payload), 2)
  return Buffer.concat([head, Buffer.alloc(payload, 0x88)])
}

const data = fc
  .record({
    opcode: fc.constantFrom(0, 1, 2),
    fin: fc.boolean(),
    payload: fc.oneof(fc.nat(130), fc.constantFrom(0, 125, 126, 127, 65_535, 65_536)),
    wide: fc.constantFrom(0, 2, 8),
  })
  .map(({ opcode, fin, payload, wide }) => frame(opcode, fin, payload, wide as 0 | 2 | 8))
const control = fc
  .record({ opcode: fc.constantFrom(9, 10), payload: fc.nat(125) })
  .map(({ opcode, payload }) => frame(opcode, true, payload, 0))
const frames = fc.array(fc.oneof(data, control), { maxLength: 6 })

/** Where frames begin and end. */
function ends(all: readonly Buffer[]): Set<number> {
  const found = new Set([0])
  let at = 0
  for (const one of all) found.add((at += one.length))
  return found
}

describe('the frames of a WebSocket server', () => {
  it('stand between two exactly where one ends, whatever the split, also after a move', () => {
    fc.assert(
      fc.property(frames, fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1 }), (all, sizes) => {
        const bytes = Buffer.concat(all)
        const places = ends(all)
        let tracker = new FrameTracker()
        expect(tracker.between).toBe(true)
        for (let at = 0, n = 0; at < bytes.length; n++) {
          const to = Math.min(bytes.length, at + sizes[n % sizes.length]!)
          tracker.follow(bytes, at, to)
          at = to
          expect(tracker.between).toBe(places.has(at))
          tracker = FrameTracker.fromRecord(structuredClone(tracker.toRecord()))
        }
        expect(tracker.ended).toBe(false)
      }),
      RUNS,
    )
  })

  it('end where they end, byte by byte', () => {
    fc.assert(
      fc.property(frames, all => {
        const bytes = Buffer.concat(all.map(each => each.subarray(0, 300)))
        const [one, whole] = [new FrameTracker(), new FrameTracker()]
        for (let at = 0; at < bytes.length; at++) one.follow(bytes, at, at + 1)
        whole.follow(bytes, 0, bytes.length)
        expect(one.toRecord()).toEqual(whole.toRecord())
      }),
      { ...RUNS, numRuns: 100 },
    )
  })

  it('end at the first end that comes', () => {
    fc.assert(
      fc.property(frames, fc.nat(), (all, cut) => {
        const bytes = Buffer.concat(all)
        const from = bytes.length === 0 ? 0 : cut % bytes.length
        const tracker = new FrameTracker()
        tracker.follow(bytes, 0, from)
        const end = tracker.followFrame(bytes, from, bytes.length)
        const next = [...ends(all)].find(place => place > from) ?? bytes.length
        expect(end).toBe(next)
        expect(tracker.between).toBe(true)
      }),
      RUNS,
    )
  })

  it('end once the server has sent a close frame, whatever follows', () => {
    fc.assert(
      fc.property(frames, frames, (before, after) => {
        const tracker = new FrameTracker()
        const bytes = Buffer.concat([...before, CLOSE_FRAME, ...after])
        tracker.follow(bytes, 0, bytes.length)
        expect([tracker.between, tracker.ended]).toEqual([false, true])
      }),
      RUNS,
    )
  })

  it.each([
    ['masked', [0x81, 0x80]],
    ['of a kind that nobody knows', [0x83]],
    ['a ping in two', [0x09]],
    ['a ping of 126 bytes', [0x89, 126]],
    ['of more bytes than can be counted', [0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]],
  ])('end where they break the rules: %s', (_name, bytes) => {
    const tracker = new FrameTracker()
    tracker.follow(Buffer.from(bytes), 0, bytes.length)
    tracker.follow(Buffer.alloc(1_000), 0, 1_000)
    expect([tracker.between, tracker.ended]).toEqual([false, true])
    expect(FrameTracker.fromRecord(tracker.toRecord()).ended).toBe(true)
  })

  it('may be anything: the record of every state is one that is taken', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), bytes => {
        const tracker = new FrameTracker()
        for (let at = 0; at < bytes.length; at++) {
          tracker.follow(bytes, at, at + 1)
          expect(FrameTracker.fromRecord(tracker.toRecord()).toRecord()).toEqual(tracker.toRecord())
        }
      }),
      RUNS,
    )
  })

  it('have no such record', () => {
    const good = { phase: 3, count: 0, left: 5, kind: 0 }
    expect(FrameTracker.fromRecord(good).between).toBe(false)
    const wrong = [
      { phase: 6 },
      { count: 1 },
      { left: 0 },
      { left: -1 },
      { kind: 3 },
      { kind: 2, left: 126 },
      { phase: 2 },
    ]
    for (const change of wrong) {
      expect(() => FrameTracker.fromRecord({ ...good, ...change }), JSON.stringify(change)).toThrow(
        expect.objectContaining({ code: 'ERR_FDB_FRAMES_RECORD' }),
      )
    }
  })
})

it('the close frame is whole, says 1001 and why, and ends what is followed', () => {
  expect([CLOSE_FRAME[0], CLOSE_FRAME.length]).toEqual([0x88, 2 + CLOSE_FRAME[1]!])
  expect(CLOSE_FRAME.readUInt16BE(2)).toBe(1001)
  expect(CLOSE_FRAME.subarray(4).toString()).toBe('the server is going away')
  const tracker = new FrameTracker()
  tracker.follow(CLOSE_FRAME, 0, CLOSE_FRAME.length)
  expect(tracker.ended).toBe(true)
})

describe('a stream of events', () => {
  const text = fc
    .array(fc.constantFrom('data: x', '\n', '\r', '\r\n', '\n\n', 'é', ':'), { maxLength: 20 })
    .map(parts => Buffer.from(parts.join('')))

  /** As the standard says: a blank line, however lines end. */
  const ended = (bytes: Buffer): boolean => {
    const lines = bytes.toString('latin1').replace(/\r\n?/g, '\n')
    return lines === '' || lines === '\n' || lines.endsWith('\n\n')
  }

  it('stands between two exactly behind a blank line, whatever the split', () => {
    fc.assert(
      fc.property(text, fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1 }), (bytes, sizes) => {
        let tracker = new EventTracker()
        for (let at = 0, n = 0; at < bytes.length; n++) {
          const to = Math.min(bytes.length, at + sizes[n % sizes.length]!)
          tracker.follow(bytes, at, to)
          at = to
          expect(tracker.between, JSON.stringify(bytes.toString('latin1', 0, at))).toBe(
            ended(bytes.subarray(0, at)),
          )
          tracker = new EventTracker(tracker.tail)
        }
      }),
      { ...RUNS, numRuns: perLane(250, 2_000) },
    )
  })

  it('ends at the first end that comes', () => {
    fc.assert(
      fc.property(text, fc.nat(), (bytes, cut) => {
        const from = bytes.length === 0 ? 0 : cut % bytes.length
        const tracker = new EventTracker()
        tracker.follow(bytes, 0, from)
        const end = tracker.followEvent(bytes, from, bytes.length)
        let first = from + 1
        while (first < bytes.length && !ended(bytes.subarray(0, first))) first++
        expect(end).toBe(Math.min(first, bytes.length))
      }),
      RUNS,
    )
  })

  it('gets an event that is whole, whatever the operator wrote', () => {
    expect(eventText('')).toBe('')
    expect(eventText('\r\n')).toBe('')
    expect(eventText('event: bye')).toBe('event: bye\n\n')
    expect(eventText('event: bye\r\n\ndata: 1\n\n')).toBe('event: bye\ndata: 1\n\n')
  })
})
