import type http from 'node:http'
import https from 'node:https'
import type net from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { carry, type Place, place } from '../../connections-support/http-pair.js'
import { moveStreams } from '../../connections-support/streams.js'
import { CERTIFICATE, KEY } from '../../e2e/relay-certificate.js'
import { until } from '../../processes/until.js'

/** An https.Server whose last unfinished answer is `open`. */
class Streaming {
  readonly #server: https.Server
  open: http.ServerResponse | null = null
  /** Written when the answer leaves. */
  last = ''

  constructor(name: string) {
    this.#server = https.createServer({ cert: CERTIFICATE, key: KEY }, (request, response) => {
      if (request.url === '/plain') response.end(name)
      else {
        this.open = response
        response.write('begin ')
      }
    })
    moveStreams(this.#server, {
      serialize: (_request, response) => {
        if (this.last !== '') response.write(this.last)
        return new Uint8Array()
      },
      restore: (_request, response) => {
        this.open = response
      },
    })
  }

  place(): Promise<Place> {
    return place(this.#server, { tls: { move: 'on' } })
  }
}

async function carried(from: Place, to: Place): Promise<void> {
  await until('it has moved', () => carry(from, to) === 1)
}

it('an answer that is being streamed over TLS goes on, with all that a slow client has not received', async () => {
  const sides = [new Streaming('a'), new Streaming('b')]
  const places = [await sides[0]!.place(), await sides[1]!.place()]
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1, rejectUnauthorized: false })
  onTestFinished(() => agent.destroy())
  const { port } = places[0]!.server.address() as net.AddressInfo
  const get = (path: string) =>
    new Promise<http.IncomingMessage>((resolve, reject) => {
      https.get({ port, host: '127.0.0.1', path, agent }, resolve).on('error', reject)
    })
  const answer = (await get('/')).setEncoding('latin1')
  let wanted = 'begin '
  for (let move = 0; move < 6; move++) {
    sides[move % 2]!.open!.write(`${move} `)
    wanted += `${move} `
    await carried(places[move % 2]!, places[1 - (move % 2)]!)
  }
  // Nothing is read: more than the kernel takes, which leaves sealed and not sealed.
  const first = sides[0]!.open!
  const below: net.Socket = Reflect.get(first.socket!, 'below')
  while (below.writableLength === 0 || first.writableLength < 300_000) {
    const part = 'x'.repeat(200_000)
    first.write(part)
    wanted += part
    await new Promise(resolve => setTimeout(resolve))
  }
  await carried(places[0]!, places[1]!)
  sides[1]!.open!.write('middle ')
  await carried(places[1]!, places[0]!)
  sides[0]!.open!.end('end')
  let text = ''
  for await (const chunk of answer) text += chunk
  expect(text === `${wanted}middle end`).toBe(true)
  const next = (await get('/plain')).setEncoding('latin1')
  for await (const chunk of next) expect(chunk).toBe('a')
  expect(next.socket).toBe(answer.socket)
  expect(places.map(({ faults }) => faults)).toEqual([[], []])
})

it('an answer over TLS leaves with what its hook has written, at the first move and at a later one', async () => {
  const sides = [new Streaming('a'), new Streaming('b')]
  const places = [await sides[0]!.place(), await sides[1]!.place()]
  const agent = new https.Agent({ rejectUnauthorized: false })
  const { port } = places[0]!.server.address() as net.AddressInfo
  const answer = await new Promise<http.IncomingMessage>((resolve, reject) => {
    https.get({ port, host: '127.0.0.1', agent }, resolve).on('error', reject)
  })
  let text = ''
  answer.setEncoding('latin1').on('data', chunk => (text += chunk))
  for (const [i, side] of sides.entries()) {
    side.last = `last of ${i} `
    await carried(places[i]!, places[1 - i]!)
  }
  sides[0]!.open!.end('end')
  await until('the answer has ended', () => answer.complete)
  expect(text).toBe('begin last of 0 last of 1 end')
})

/** An https.Server whose answer is written on as soon as the kernel has taken what was written: numbered parts. */
class Busy {
  readonly #server: https.Server
  /** The answer ends after so many parts. */
  last = Number.POSITIVE_INFINITY

  constructor() {
    const counts = new WeakMap<http.ServerResponse, number>()
    const goOn = (response: http.ServerResponse, from: number) => {
      counts.set(response, from)
      const next = () => {
        for (let n = counts.get(response)!; n < this.last; ) {
          counts.set(response, ++n)
          if (!response.write(partOf(n))) return
        }
        response.end()
      }
      response.on('drain', next)
      next()
    }
    this.#server = https.createServer({ cert: CERTIFICATE, key: KEY }, (_request, response) =>
      goOn(response, 0),
    )
    moveStreams(this.#server, {
      serialize: (_request, response) => Buffer.from(`${counts.get(response)}`),
      restore: (_request, response, data) => goOn(response, Number(Buffer.from(data).toString())),
    })
  }

  place(): Promise<Place> {
    return place(this.#server, { tls: { move: 'on' } })
  }
}

function partOf(n: number): string {
  return `${n} `.repeat(10_000)
}

it('an answer over TLS that is written on at each drain moves, and its client gets every byte', async () => {
  const sides = [new Busy(), new Busy()]
  const places = [await sides[0]!.place(), await sides[1]!.place()]
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1, rejectUnauthorized: false })
  onTestFinished(() => agent.destroy())
  const { port } = places[0]!.server.address() as net.AddressInfo
  const answer = await new Promise<http.IncomingMessage>((resolve, reject) => {
    https.get({ port, host: '127.0.0.1', agent }, resolve).on('error', reject)
  })
  let rest = ''
  let parts = 0
  answer.setEncoding('latin1').on('data', (chunk: string) => {
    rest += chunk
    for (let part = partOf(parts + 1); rest.startsWith(part); part = partOf(parts + 1)) {
      rest = rest.slice(part.length)
      parts++
    }
  })
  await until('the answer is under way', () => parts > 20)
  await carried(places[0]!, places[1]!)
  const before = parts
  await until('the answer goes on', () => parts > before + 20)
  sides[1]!.last = parts + 50
  await until('the answer has ended', () => answer.complete)
  expect(rest).toBe('')
  expect(parts).toBeGreaterThan(before + 20)
  expect(places.map(({ faults }) => faults)).toEqual([[], []])
})
