import { once } from 'node:events'
import http from 'node:http'
import type net from 'node:net'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { NotRestored } from '../../../src/connections/movable.js'
import type { OwnedFd } from '../../../src/kernel/index.js'
import { get, RawClient } from '../../connections-support/http-client.js'
import { carry, giveBack, type Place, place, taken } from '../../connections-support/http-pair.js'
import { moveStreams, type StreamHooks } from '../../connections-support/streams.js'
import { until } from '../../processes/until.js'

type Handler = (request: http.IncomingMessage, response: http.ServerResponse) => void

/** A server whose last unfinished answer is `open`. */
class Streaming {
  readonly server: http.Server
  open: http.ServerResponse | null = null
  readonly restored: { request: http.IncomingMessage; data: string }[] = []

  constructor(name: string, begin: Handler, hooks: Partial<StreamHooks> = {}) {
    this.server = http.createServer((request, response) => {
      if (request.url === '/plain') response.end(name)
      else {
        this.open = response
        begin(request, response)
      }
    })
    moveStreams(this.server, {
      serialize: () => Buffer.from(name),
      restore: (request, response, data) => {
        this.open = response
        this.restored.push({ request, data: Buffer.from(data).toString() })
      },
      ...hooks,
    })
  }

  place(): Promise<Place> {
    return place(this.server)
  }
}

const inChunks: Handler = (_request, response) => {
  response.setHeader('X-One', ['1', '2'])
  response.writeHead(200, 'Fine', { Trailer: 'X-End' })
  response.write('begin ')
}

async function pair(begin: Handler, hooks: Partial<StreamHooks> = {}) {
  const [old, young] = [new Streaming('old', begin), new Streaming('young', begin, hooks)]
  return { old, young, from: await old.place(), to: await young.place() }
}

async function begun(streaming: Streaming): Promise<void> {
  await until('it has begun', () => streaming.open?.headersSent)
}

function agent(): http.Agent {
  const keeping = new http.Agent({ keepAlive: true, maxSockets: 1 })
  onTestFinished(() => keeping.destroy())
  return keeping
}

const portOf = ({ server }: Place) => (server.address() as net.AddressInfo).port

function request(at: Place, options: http.RequestOptions): Promise<http.IncomingMessage> {
  return new Promise((resolve, reject) => {
    http.get({ port: portOf(at), host: '127.0.0.1', ...options }, resolve).on('error', reject)
  })
}

async function textOf(response: http.IncomingMessage): Promise<string> {
  response.setEncoding('utf8')
  let text = ''
  for await (const chunk of response) text += chunk
  return text
}

async function carried(from: Place, to: Place): Promise<void> {
  await until('it has moved', () => carry(from, to) === 1)
}

describe('an answer that is being streamed', () => {
  it('goes on in the next process as one answer, and so does its connection', async () => {
    const { old, young, from, to } = await pair(inChunks)
    const keeping = agent()
    const answer = await request(from, { agent: keeping, path: '/stream?q=1', headers: { cookie: 'a=1' } })
    const whole = textOf(answer)
    const before = old.open!
    const gone = Promise.all([once(before, 'close'), once(before.req, 'close')])
    let errors = 0
    before.req.on('error', () => errors++)
    await carried(from, to)
    await gone
    expect([before.destroyed, before.write('late'), errors]).toEqual([true, false, 0])
    const there = young.open!
    expect(
      young.restored.map(({ request, data }) => [data, request.method, request.url, request.complete]),
    ).toEqual([['old', 'GET', '/stream?q=1', true]])
    expect([there.req.headers.cookie, there.req.headers.host]).toEqual(['a=1', `127.0.0.1:${portOf(from)}`])
    expect([there.statusCode, there.headersSent, there.getHeader('x-one')]).toEqual([200, true, ['1', '2']])
    expect([there.writableEnded, there.destroyed, there.socket!.remotePort]).toEqual([
      false,
      false,
      there.req.socket.remotePort,
    ])
    const finished = once(there, 'finish')
    there.write('middle ')
    there.addTrailers({ 'X-End': 'yes' })
    there.end('end')
    await finished
    expect(await whole).toBe('begin middle end')
    expect([answer.statusMessage, answer.trailers]).toEqual(['Fine', { 'x-end': 'yes' }])
    const next = await request(from, { agent: keeping, path: '/plain' })
    expect([await textOf(next), next.socket]).toEqual(['young', answer.socket])
    expect([from.faults, to.faults]).toEqual([[], []])
  })

  it('moves through many processes, each of which writes a part', async () => {
    const sides = [new Streaming('a', inChunks), new Streaming('b', inChunks)]
    const places = [await sides[0]!.place(), await sides[1]!.place()]
    const whole = textOf(await request(places[0]!, { path: '/' }))
    let wanted = 'begin '
    for (let move = 0; move < 20; move++) {
      const here = sides[move % 2]!
      here.open!.write(`${move} `)
      wanted += `${move} `
      await carried(places[move % 2]!, places[1 - (move % 2)]!)
    }
    sides[0]!.open!.end()
    expect(await whole).toBe(wanted)
  })

  it.each([
    ['in chunks', {}],
    ['with a length', { 'content-length': '6000000' }],
  ])('keeps bytes that the client has not taken, %s', async (_title, headers) => {
    const part = Buffer.alloc(1_000_000, 'x')
    const { young, from, to } = await pair((_request, response) => {
      response.writeHead(200, headers)
      response.write(part)
      response.write(part)
    })
    const answer = await request(from, { path: '/' })
    await carried(from, to)
    const { open } = young
    expect(open!.writableNeedDrain).toBe(false)
    const drained = once(open!, 'drain')
    expect([open!.write(part), open!.write(part)]).toEqual([false, false])
    const whole = textOf(answer)
    await drained
    open!.write(part)
    open!.end(part)
    const text = await whole
    expect([text.length, text.replaceAll('x', '')]).toEqual([6_000_000, ''])
  })

  it.each([
    ['HTTP/1.0', 'GET / HTTP/1.0\r\n\r\n'],
    ['Connection: close', get('/', 'Connection: close\r\n')],
  ])('ends with its connection after a request with %s', async (_title, question) => {
    const { young, from, to } = await pair((_request, response) => {
      response.removeHeader('Transfer-Encoding')
      response.write('begin ')
    })
    const client = await RawClient.to(portOf(from))
    let text = ''
    client.socket.on('data', chunk => {
      text += chunk
    })
    client.send(question)
    await until('it has begun', () => text.endsWith('begin '))
    await carried(from, to)
    expect(young.open!.req.httpVersion).toBe(question.includes('1.0') ? '1.0' : '1.1')
    young.open!.end('end')
    expect(await client.ended()).toBe('fin')
    expect(text.slice(text.indexOf('\r\n\r\n') + 4)).toBe('begin end')
  })

  it('to HEAD has no body in the next process either', async () => {
    const { old, young, from, to } = await pair((_request, response) => response.flushHeaders())
    const client = await RawClient.to(portOf(from))
    client.send('HEAD /x HTTP/1.1\r\nHost: x\r\n\r\n')
    await begun(old)
    await carried(from, to)
    young.open!.write('not sent')
    young.open!.end()
    expect((await client.answer()).head).toMatch(/200 OK/)
    expect(await client.ask('/plain')).toBe('young')
  })

  it('keeps the check of its announced length', async () => {
    const { old, young, from, to } = await pair((_request, response) => {
      response.strictContentLength = true
      response.writeHead(200, { 'content-length': '9' })
      response.write('begin ')
    })
    const whole = request(from, { path: '/' }).then(textOf)
    await begun(old)
    await carried(from, to)
    expect(() => young.open!.end('too long')).toThrow(/content-length/)
    young.open!.end('end')
    expect(await whole).toBe('begin end')
  })

  it('stays while its request is being sent, and moves after it', async () => {
    const { old, young, from, to } = await pair((incoming, response) => {
      incoming.resume()
      inChunks(incoming, response)
    })
    const client = await RawClient.to(portOf(from))
    client.send('POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab')
    await begun(old)
    expect(carry(from, to)).toBe(0)
    expect(from.served.kinds()).toEqual({ answering: 1 })
    client.send('cd')
    await carried(from, to)
    expect(young.open!.req.method).toBe('POST')
    young.open!.end()
    expect((await client.answer()).head).toMatch(/200 Fine/)
  })

  it('stays while a later request waits behind it', async () => {
    const { old, from, to } = await pair(inChunks)
    const client = await RawClient.to(portOf(from))
    client.send(get('/') + get('/plain'))
    await begun(old)
    expect(carry(from, to)).toBe(0)
    expect(from.served.kinds()).toEqual({ pipelined: 1 })
  })

  it('stays if the hook returns nothing, and is asked for again', async () => {
    const answers: (null | undefined | Uint8Array)[] = [null, undefined, new Uint8Array()]
    const old = new Streaming('old', inChunks, { serialize: () => answers.shift() })
    const young = new Streaming('young', inChunks)
    const [from, to] = [await old.place(), await young.place()]
    const whole = request(from, { path: '/' }).then(textOf)
    await begun(old)
    await until('it has moved', () => carry(from, to) === 1)
    expect(answers).toEqual([])
    young.open!.end()
    expect(await whole).toBe('begin ')
  })

  it('stays if the hook throws or returns a text, with one report', async () => {
    const returns: (() => Uint8Array)[] = [
      () => {
        throw new Error('mine')
      },
      () => JSON.parse('"text"'),
    ]
    for (const serialize of returns) {
      const old = new Streaming('old', inChunks, { serialize })
      const [from, to] = [await old.place(), await new Streaming('young', inChunks).place()]
      const whole = request(from, { path: '/' }).then(textOf)
      await begun(old)
      await until('the hook was called', () => carry(from, to) === 0 && from.faults.length > 0)
      expect(carry(from, to)).toBe(0)
      expect([from.faults.length, from.served.kinds()]).toEqual([1, { hook: 1 }])
      old.open!.end('end')
      expect(await whole).toBe('begin end')
    }
  })

  it('comes back if the next version cannot restore it: nothing that its hook wrote is sent', async () => {
    const { old, from, to } = await pair(inChunks, {
      restore: (_request, response) => {
        response.write('never')
        throw new Error('mine')
      },
    })
    const whole = request(from, { path: '/' }).then(textOf)
    await begun(old)
    const [departure] = taken(from)
    const value = to.moving.check(departure!.record, departure!.fds)!
    let fd: OwnedFd | null = null
    try {
      to.moving.arrive(value, 'moved')
    } catch (error) {
      if (error instanceof NotRestored) fd = error.fd
    }
    expect(to.faults).toHaveLength(1)
    const back = from.moving.check(departure!.record, [fd!])!
    from.moving.arrive(back, 'refused')
    expect(old.restored).toHaveLength(1)
    old.open!.end('end')
    expect(await whole).toBe('begin end')
  })

  it('goes on here if a version without hooks refuses it', async () => {
    const old = new Streaming('old', inChunks)
    const from = await old.place()
    const to = await place(http.createServer())
    const whole = request(from, { path: '/' }).then(textOf)
    await begun(old)
    const departures = taken(from)
    expect(() => to.moving.check(departures[0]!.record, departures[0]!.fds)).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_NO_TARGET' }),
    )
    giveBack(from, departures, 'refused')
    expect(carry(from, to)).toBe(0)
    old.open!.end('end')
    expect(await whole).toBe('begin end')
  })

  it('tells the next process of a client that went away during the move', async () => {
    const { old, young, from, to } = await pair(inChunks)
    const answer = await request(from, { path: '/' })
    await begun(old)
    const departures = taken(from)
    answer.destroy()
    giveBack(to, departures, 'moved')
    await once(young.open!, 'close')
    expect([young.open!.destroyed, to.faults]).toEqual([true, []])
  })

  it('goes on to its end when the service ends', async () => {
    const { old, young, from, to } = await pair(inChunks)
    const answer = (await request(from, { agent: agent() })).setEncoding('latin1')
    await begun(old)
    carry(from, to)
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    to.served.endIdle()
    vi.advanceTimersByTime(1_000)
    vi.useRealTimers()
    // The limit counts when what has arrived is read.
    for (let turn = 0; turn < 3; turn++) await new Promise(resolve => setImmediate(resolve))
    young.open!.end('end')
    let text = ''
    for await (const chunk of answer) text += chunk
    expect(text).toBe('begin end')
  })

  it('ends in the next process when the hook ends it', async () => {
    const { from, to } = await pair(inChunks, { restore: (_request, response) => response.end('at once') })
    const keeping = agent()
    const answer = await request(from, { path: '/', agent: keeping })
    await carried(from, to)
    expect(await textOf(answer)).toBe('begin at once')
    expect(await textOf(await request(from, { path: '/plain', agent: keeping }))).toBe('young')
  })
})

describe('moveStreams()', () => {
  it('takes an http.Server once, with both hooks', () => {
    const hooks = { serialize: () => null, restore: () => {} }
    const server = http.createServer()
    moveStreams(server, hooks)
    const wrong = expect.objectContaining({ code: 'ERR_FDB_OPTION' })
    expect(() => moveStreams(server, hooks)).toThrow(wrong)
    expect(() => moveStreams(JSON.parse('{}'), hooks)).toThrow(wrong)
    expect(() => moveStreams(http.createServer(), JSON.parse('{}'))).toThrow(wrong)
  })
})
