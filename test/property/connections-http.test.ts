import http from 'node:http'
import type net from 'node:net'
import { describe, expect, it } from 'vitest'
import { RawClient } from '../connections-support/http-client.js'
import { giveBack, type Place, place, taken } from '../connections-support/http-pair.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const RUNS = perLane(25, 200)

interface Request {
  readonly kind: 'get' | 'length' | 'chunked'
  readonly body: string
  /** Turns of the event loop until it is answered. */
  readonly delay: number
}

const request: fc.Arbitrary<Request> = fc.record({
  kind: fc.constantFrom('get', 'length', 'chunked'),
  body: fc.string({ maxLength: 12, unit: 'grapheme-ascii' }),
  delay: fc.nat({ max: 3 }),
})

/** The next event: a client sends so many bytes, connections move from one server to another, or turns pass. */
const step = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({ do: fc.constant('send' as const), client: fc.nat(2), bytes: fc.nat(90) }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('move' as const), from: fc.nat(2), to: fc.nat(2) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('turns' as const), count: fc.nat(4) }) },
)

const script = fc.record({
  clients: fc.array(fc.array(request, { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 3 }),
  steps: fc.array(step, { minLength: 10, maxLength: 60 }),
})

function textOf({ kind, body, delay }: Request, n: number): string {
  const head = `${kind === 'get' ? 'GET' : 'POST'} /${n}/${delay} HTTP/1.1\r\nHost: x\r\n`
  if (kind === 'get') return `${head}\r\n`
  if (kind === 'length') return `${head}Content-Length: ${body.length}\r\n\r\n${body}`
  const chunk = body === '' ? '' : `${body.length.toString(16)}\r\n${body}\r\n`
  return `${head}Transfer-Encoding: chunked\r\n\r\n${chunk}0\r\n\r\n`
}

function echo(): http.Server {
  return http.createServer({ keepAliveTimeout: 60_000 }, async (request, response) => {
    let body = ''
    for await (const chunk of request.setEncoding('latin1')) body += chunk
    await turns(Number(request.url!.split('/')[2]))
    response.end(`${request.url} ${body}`)
  })
}

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(resolve => setImmediate(resolve))
}

describe('HTTP connections that move at random moments', () => {
  it('answer every request once, in order and whole', async () => {
    const places: Place[] = []
    for (let i = 0; i < 3; i++) places.push(await place(echo()))
    const port = (places[0]!.server.address() as net.AddressInfo).port
    let moves = 0
    const move = async (from: Place, to: Place) => {
      from.moving.onMovable ??= () => {}
      const departures = taken(from)
      await turns(departures.length % 2)
      for (const departure of departures) to.moving.check(departure.record, departure.fds)
      giveBack(to, departures, from === to ? 'returned' : 'moved')
      moves += departures.length
    }
    const run = async ({ clients, steps }: typeof script extends fc.Arbitrary<infer T> ? T : never) => {
      const sides = await Promise.all(
        clients.map(async requests => ({
          client: await RawClient.to(port),
          left: requests.map(textOf).join(''),
          expected: requests.map(
            ({ kind, body, delay }, n) => `/${n}/${delay} ${kind === 'get' ? '' : body}`,
          ),
        })),
      )
      const send = (side: (typeof sides)[number], bytes: number) => {
        if (side.left === '' || bytes === 0) return
        side.client.send(side.left.slice(0, bytes))
        side.left = side.left.slice(bytes)
      }
      for (const step of steps) {
        if (step.do === 'send') send(sides[step.client % sides.length]!, step.bytes)
        else if (step.do === 'move') await move(places[step.from]!, places[step.to]!)
        else await turns(step.count)
      }
      for (const side of sides) send(side, side.left.length)
      for (const side of sides) {
        const answers: string[] = []
        for (const _ of side.expected) answers.push((await side.client.answer()).body)
        expect(answers).toEqual(side.expected)
        expect(side.client.end).toBeNull()
        side.client.socket.destroy()
      }
    }
    await fc.assert(fc.asyncProperty(script, run), { seed: 20_261_120, numRuns: RUNS })
    expect(moves).toBeGreaterThan(RUNS)
  })
})
