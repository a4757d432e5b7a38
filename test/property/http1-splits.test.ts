import { describe, expect, it } from 'vitest'
import * as http1 from '../../src/http1/index.js'
import { FieldEdits, Framing, Http1Refusal, RequestReader } from '../../src/http1/index.js'
import { someCuts } from '../http1-support/compare.js'
import { generate } from '../http1-support/generator.js'
import { readWithOurs } from '../http1-support/our-parser.js'
import { Random } from '../http1-support/random.js'
import { readRequest, rewriteRequest } from '../http1-support/read.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const SEED = { seed: 20_26, numRuns: perLane(250, 2_000) }

/** Streams of the fuzzing, valid or damaged. */
const input = fc.integer().map(seed => generate(new Random(seed)))

/** Chunked bodies, sometimes with a wrong byte. */
const chunkedBody = fc
  .tuple(
    fc.array(fc.tuple(fc.stringMatching(/^[\x20-\x7e\r\n]{1,20}$/), fc.constantFrom('', ';a', ';a=b;c')), {
      maxLength: 5,
    }),
    fc.array(fc.constantFrom('X-Sum: 1', 'Server-Timing:', 'x:\ty z'), { maxLength: 3 }),
    fc.option(fc.tuple(fc.nat(), fc.constantFrom(...'\r\n \t;=:0aG\0\xff')), { nil: null }),
  )
  .map(([chunks, trailers, wrong]) => {
    const data = chunks.map(
      ([content, extension]) => `${content.length.toString(16)}${extension}\r\n${content}\r\n`,
    )
    const text = `${data.join('')}0\r\n${trailers.map(line => `${line}\r\n`).join('')}\r\n`
    if (wrong === null) return Buffer.from(text, 'latin1')
    const at = wrong[0] % text.length
    return Buffer.from(text.slice(0, at) + wrong[1] + text.slice(at + 1), 'latin1')
  })

interface Reading {
  taken: number
  state: object | null
  refused: string | null
}

/** Follows the body through pieces; where it stood afterwards, or where and why it was refused. */
function follow(
  body: Buffer,
  cuts: number[],
  move: (framing: Framing) => Framing,
): Reading & { content: string } {
  let framing = Framing.chunked('request')
  let taken = 0
  let content = ''
  for (const [i, from] of [0, ...cuts].entries()) {
    const to = cuts[i] ?? body.length
    const spans: number[] = []
    try {
      taken += framing.advance(body, from, to, spans)
    } catch (error) {
      if (!(error instanceof Http1Refusal)) throw error
      return { taken: error.offset, state: null, refused: error.reason, content: '' }
    }
    for (let s = 0; s < spans.length; s += 2) content += body.toString('latin1', spans[s], spans[s + 1])
    if (framing.done) break
    framing = move(framing)
  }
  return { taken, state: framing.toRecord(), refused: null, content }
}

const cutsOf = (length: number) => (seeds: number[]) =>
  [...new Set(seeds.map(seed => seed % (length + 1)))].sort((a, b) => a - b)

describe('however the bytes are split', () => {
  it('a chunked body ends, stands and is refused at the same byte', () => {
    fc.assert(
      fc.property(chunkedBody, fc.array(fc.nat(), { maxLength: 10 }), (body, seeds) => {
        const whole = follow(body, [], framing => framing)
        expect(follow(body, cutsOf(body.length)(seeds), framing => framing)).toEqual(whole)
      }),
      SEED,
    )
  })

  it('every prefix of a chunked body leaves the same record as the same bytes one by one', () => {
    fc.assert(
      fc.property(chunkedBody, body => {
        const single = Framing.chunked('request')
        for (let at = 0; at < body.length && !single.done; at++) {
          const whole = Framing.chunked('request')
          const takeAll = () => whole.advance(body, 0, at + 1)
          try {
            single.advance(body, at, at + 1)
          } catch (error) {
            expect(takeAll).toThrow(
              expect.objectContaining({ reason: (error as Http1Refusal).reason, offset: at }),
            )
            return
          }
          takeAll()
          expect(whole.toRecord()).toEqual(single.toRecord())
        }
      }),
      { ...SEED, numRuns: perLane(75, 300) },
    )
  })

  it('and however often the tracker is moved to another process', () => {
    fc.assert(
      fc.property(chunkedBody, fc.array(fc.nat(), { maxLength: 10 }), (body, seeds) => {
        const move = (framing: Framing) =>
          Framing.fromRecord(JSON.parse(JSON.stringify(framing.toRecord())), 'request')
        expect(follow(body, cutsOf(body.length)(seeds), move)).toEqual(follow(body, [], framing => framing))
      }),
      SEED,
    )
  })

  it('the same messages are read from a stream, and it is refused at the same byte for the same reason', () => {
    fc.assert(
      fc.property(input, fc.integer(), (stream, seed) => {
        const summary = (cuts: number[]) => {
          const { messages, verdict, reason, offset, left } = readWithOurs(http1, stream, cuts)
          return { messages, verdict, reason, offset, left }
        }
        expect(summary(someCuts(new Random(seed), stream.text.length))).toEqual(summary([]))
      }),
      SEED,
    )
  })

  it('a reader that holds part of a head can be replaced by a fresh one with its bytes', () => {
    fc.assert(
      fc.property(input, fc.nat(), (stream, seed) => {
        const bytes = Buffer.from(stream.text, 'latin1')
        const cut = seed % (bytes.length + 1)
        const whole = outcome(() => new RequestReader().read(bytes))
        const moved = outcome(() => {
          const old = new RequestReader()
          const early = old.read(bytes, 0, cut)
          if (early !== null) return early
          const next = new RequestReader()
          next.read(old.pending)
          return next.read(bytes, cut)
        })
        expect(moved).toEqual(whole)
      }),
      SEED,
    )
  })
})

function outcome(read: () => http1.RequestHead | null): unknown {
  try {
    const head = read()
    return head === null ? null : [head.method, head.target, [...head.fields]]
  } catch (error) {
    if (!(error instanceof Http1Refusal)) throw error
    return [error.reason, error.offset]
  }
}

describe('any head that was taken', () => {
  const edits = new FieldEdits({ remove: ['cookie'], set: { 'X-A': 'edited' } })

  it('can be taken again after it was rewritten, with the same framing and fields', () => {
    let rewritten = 0
    fc.assert(
      fc.property(input, stream => {
        if (stream.side === 'response') return
        const head = outcomeHead(stream.text)
        if (head === null) return
        const again = readRequest(rewriteRequest(head, head.authority === undefined ? { host: 'a' } : {}))
        rewritten++
        expect(again.framing().toRecord()).toEqual(head.framing().toRecord())
        expect(again.method).toBe(head.method)
        expect(again.connection).toEqual([])
        const sent = new Set([...head.fields].map(line => line.join(': ')))
        const passed = [...again.fields]
          .filter(([name]) => name.toLowerCase() !== 'host')
          .map(line => line.join(': '))
        expect(passed.filter(line => !sent.has(line))).toEqual([])
        expect(again.authority?.host).toBe(head.authority?.host ?? 'a')
        const edited = readRequest(rewriteRequest(head, { edits, host: 'b' }))
        expect([edited.fields.get('x-a'), edited.fields.get('cookie')]).toEqual(['edited', undefined])
        expect(rewriteRequest(again)).toBe(rewriteRequest(readRequest(rewriteRequest(again))))
      }),
      SEED,
    )
    expect(rewritten).toBeGreaterThan(SEED.numRuns / 5)
  })
})

function outcomeHead(text: string): http1.RequestHead | null {
  try {
    return new RequestReader().read(Buffer.from(text, 'latin1'))
  } catch {
    return null
  }
}
