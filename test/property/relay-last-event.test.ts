import { describe, expect, it } from 'vitest'
import { Framing, takeContent } from '../../src/http1/index.js'
import { EventTracker } from '../../src/relay/boundaries.js'
import type { ByteStream } from '../../src/relay/index.js'
import { passBody } from '../../src/relay/response-plan.js'
import { LastEvent } from '../../src/relay/server-response.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const LAST = 'event: bye\n\n'

const events = fc
  .array(
    fc.constantFrom('data: one\n\n', 'id: 2\r\ndata: two\r\n\r\n', ': ping\r\r', 'data: x\ndata: \xe9\n\n'),
    { maxLength: 8 },
  )
  .map(all => ({ all, bytes: Buffer.from(all.join(''), 'latin1') }))
const sizes = fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 10 })

function* pieces(bytes: Buffer, lengths: readonly number[]): Generator<Buffer> {
  for (let at = 0, n = 0; at < bytes.length; n++) {
    const to = Math.min(bytes.length, at + lengths[n % lengths.length]!)
    yield bytes.subarray(at, to)
    at = to
  }
}

/** The bytes of a client that is cut after `cut` reads, and how much content it had by then. */
function relayed(
  coding: 'as-is' | 'content' | 'chunks',
  body: Framing,
  reads: readonly Buffer[],
  cut: number,
) {
  const out: Buffer[] = []
  const to = {
    write: (bytes: Buffer, from?: number, end?: number) =>
      void out.push(Buffer.from(bytes.subarray(from, end))),
  } as unknown as ByteStream
  const tracker = new EventTracker()
  for (const read of reads.slice(0, cut)) passBody(to, coding, body, read, 0, tracker)
  const before = Buffer.concat(out)
  const last = new LastEvent(LAST, coding)
  let ended = last.pass(to, body, tracker, Buffer.alloc(0), 0)
  for (const read of reads.slice(cut)) ended ||= last.pass(to, body, tracker, read, 0)
  return { before, ended, all: Buffer.concat(out) }
}

/** The content of a chunked body, and whether it is whole. */
function dechunked(bytes: Buffer): { content: string; whole: boolean } {
  const body = Framing.chunked('response')
  const { taken, content } = takeContent(body, bytes)
  expect(taken).toBe(bytes.length)
  return { content: Buffer.concat(content).toString('latin1'), whole: body.done }
}

/** Whole events, then the operator's; nothing that had been sent is missing. */
function expectEnd(all: readonly string[], before: string, content: string): void {
  expect(content.endsWith(LAST)).toBe(true)
  const rest = content.slice(0, -LAST.length)
  expect(rest.startsWith(before)).toBe(true)
  // A CR may end the last line; its LF is not sent then.
  const ends = all.map((_, n) => all.slice(0, n + 1).join(''))
  expect(['', ...ends, ...ends.map(each => each.replace(/\r\n$/, '\r'))]).toContain(rest)
}

describe('a stream of events that is ended here', () => {
  it('in chunks of any size, read in any pieces: behind a whole event, and as a whole body', () => {
    fc.assert(
      fc.property(
        events,
        sizes,
        sizes,
        fc.nat(60),
        fc.boolean(),
        ({ all, bytes }, chunks, reads, cut, open) => {
          const coded = [...pieces(bytes, chunks)].map(
            part => `${part.length.toString(16)};a=b\r\n${part.toString('latin1')}\r\n`,
          )
          const body = Buffer.from(coded.join('') + (open ? '' : '0\r\nX-Sum: x\r\n\r\n'), 'latin1')
          // Never behind its end: nothing is left to end then.
          const list = [...pieces(body, reads)]
          const at = Math.min(cut, Math.max(0, list.length - 1))
          const got = relayed('as-is', Framing.chunked('response'), list, at)
          const { content, whole } = dechunked(got.all)
          expect(whole).toBe(got.ended)
          const bye = content.endsWith(LAST)
          if (bye) expectEnd(all, dechunked(got.before).content, content)
          else expect(content).toBe(bytes.toString('latin1'))
          if (!open) expect(got.ended).toBe(true)
        },
      ),
      { seed: 11, numRuns: perLane(375, 3_000) },
    )
  })

  it.each(['content', 'chunks'] as const)('as %s, where its server ends it by closing', coding => {
    fc.assert(
      fc.property(events, sizes, fc.nat(60), ({ all, bytes }, reads, cut) => {
        const got = relayed(coding, Framing.untilClose(), [...pieces(bytes, reads)], cut)
        // The server stands between two events at the latest when all has come.
        expect(got.ended).toBe(true)
        if (coding === 'content') {
          expectEnd(all, got.before.toString('latin1'), got.all.toString('latin1'))
          return
        }
        const { content, whole } = dechunked(got.all)
        expect(whole).toBe(true)
        expectEnd(all, dechunked(got.before).content, content)
      }),
      { seed: 12, numRuns: perLane(187, 1_500) },
    )
  })
})
