import { mkdtempSync, rmSync } from 'node:fs'
import http from 'node:http'
import type net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { codec, defineSection, join as joinService, type ServeOptions } from '../../../src/index.js'
import { carry, type Place, place } from '../../connections-support/http-pair.js'
import { EventChannels } from '../../connections-support/streams.js'
import { untyped } from '../../fixtures/untyped.js'
import { until } from '../../processes/until.js'

afterEach(() => void vi.useRealTimers())

/** A channel tells each of its clients its position this often. */
const BEAT_MS = 15_000

let names = 0

function channels(keep = 100): EventChannels {
  return new EventChannels({ name: `events ${++names}`, keep })
}

function placeOf(events: EventChannels, options?: ServeOptions): Promise<Place> {
  return place(
    http.createServer((request, response) => events.stream(request.url!.slice(1), request, response)),
    options,
  )
}

/** A client of a channel: what it has received, without the numbers' random start. */
class Client {
  text = ''
  ended = false
  readonly answer: http.IncomingMessage

  private constructor(answer: http.IncomingMessage) {
    this.answer = answer
    answer.setEncoding('utf8')
    answer.on('data', chunk => {
      this.text += chunk
    })
    answer.on('close', () => {
      this.ended = true
    })
    answer.on('error', () => {})
  }

  static async of({ server }: Place, channel: string, lastEventId?: string): Promise<Client> {
    const { port } = server.address() as net.AddressInfo
    const headers = { ...(lastEventId !== undefined && { 'last-event-id': lastEventId }) }
    const path = `/${channel}`
    const client = await new Promise<Client>((resolve, reject) => {
      const asked = http.get({ port, host: '127.0.0.1', path, headers, agent: false }, answer =>
        resolve(new Client(answer)),
      )
      asked.on('error', reject)
      onTestFinished(() => void asked.destroy())
    })
    await until('it has begun', () => client.text !== '')
    return client
  }

  get told(): string[] {
    return this.text.split('\n\n').map(part => part.replaceAll('\n', ' ').replace(/id: \w+-/, '#'))
  }

  get lastId(): string {
    return [...this.text.matchAll(/^id: (.*)$/gm)].at(-1)![1]!
  }

  async gets(text: string): Promise<void> {
    await until(
      `it gets ${text}`,
      () => this.text.includes(text),
      undefined,
      () => this.text,
    )
  }
}

async function member() {
  const joined = await joinService({ service: 'shop', control: false })
  onTestFinished(() => joined.close({ timeout: 0 }))
  await joined.ready()
  return joined
}

describe('a channel of events', () => {
  it.each(['the state', 'a process without a member'])(
    'gives a client that reconnects what it has missed, each once, in order: from %s',
    async where => {
      const joined = where === 'the state' ? await member() : undefined
      const events = new EventChannels({ name: `events ${++names}`, member: joined })
      const at = await placeOf(events)
      await events.publish('news', 'before')
      const client = await Client.of(at, 'news')
      await events.publish('news', 'one\ntwo\r\n', { event: 'pair' })
      await events.publish('other', 'for others')
      await client.gets('two')
      client.answer.destroy()
      await events.publish('news', 'three')
      await events.publish('other', 'for others')
      await events.publish('news', 'four')
      const again = await Client.of(at, 'news', client.lastId)
      await events.publish('news', 'five')
      await again.gets('five')
      expect([...client.told, ...again.told]).toEqual([
        ...['#1', '#2 event: pair data: one data: two data: ', ''],
        ...['#2', '#4 data: three', '#6 data: four', '#7 data: five', ''],
      ])
    },
  )

  it('tells a client that has missed events which are not kept, or that comes from another log', async () => {
    const events = channels(2)
    const at = await placeOf(events)
    const client = await Client.of(at, 'news')
    client.answer.destroy()
    for (const text of ['one', 'two', 'three']) await events.publish('news', text)
    const [start] = client.lastId.split('-')
    const answers = await Promise.all([
      Client.of(at, 'news', client.lastId),
      Client.of(at, 'news', 'other-7'),
      Client.of(at, 'news', `${start}-1`),
      Client.of(at, 'news'),
      // From before a machine failed, whose file of the state lacks the last events.
      Client.of(at, 'news', `${start}-9`),
    ])
    await events.publish('news', 'four')
    for (const answer of answers) await answer.gets('four')
    const rest = ['#2 data: two', '#3 data: three', '#4 data: four', '']
    expect(answers.map(({ told }) => told)).toEqual([
      ['#1 event: gap data: ', ...rest],
      ['#1 event: gap data: ', ...rest],
      ['#1', ...rest],
      ['#3', '#4 data: four', ''],
      ['#1 event: gap data: ', ...rest],
    ])
  })

  it('holds nothing back for a client that reads slowly: it continues in the log, and is told of what is not kept', async () => {
    const events = channels(50)
    const at = await placeOf(events)
    const client = await Client.of(at, 'news')
    client.answer.pause()
    const text = 'x'.repeat(100_000)
    const [socket] = at.sockets
    let most = 0
    for (let n = 0; n < 400; n++) {
      await events.publish('news', `${n} ${text}`)
      most = Math.max(most, socket!.writableLength)
      if (n % 20 === 0) await new Promise(setImmediate)
    }
    expect(most).toBeLessThan(300_000)
    client.answer.resume()
    await client.gets('data: 399 ')
    const numbers = [...client.text.matchAll(/^data: (\d+) /gm)].map(([, n]) => Number(n))
    const gaps = numbers.filter((n, i) => i > 0 && n !== numbers[i - 1]! + 1)
    expect(client.text.match(/event: gap/g)).toHaveLength(gaps.length)
    expect(gaps.length).toBeGreaterThan(0)
    expect(numbers).toEqual([...new Set(numbers)].sort((one, other) => one - other))
  })

  it('keeps in memory what is published before join(), and streams from before it reconnect', async () => {
    const events = channels()
    const at = await placeOf(events)
    await events.publish('news', 'early')
    const early = await Client.of(at, 'news')
    const joined = await member()
    await until('the early stream has ended', () => early.ended)
    await events.publish('news', 'late')
    const again = await Client.of(at, 'news', early.lastId)
    await again.gets('late')
    expect(again.told).toEqual(['#0 event: gap data: ', '#1 data: early', '#2 data: late', ''])
    expect(joined.section(`events ${names}`).secret).toBe(true)
  })

  it('writes the headers that the response has, and answers HEAD without a body', async () => {
    const events = channels()
    const at = await place(
      http.createServer((request, response) => {
        response.setHeader('Access-Control-Allow-Origin', '*')
        events.stream('news', request, response)
      }),
    )
    const client = await Client.of(at, 'news')
    expect(client.answer.headers).toMatchObject({
      'access-control-allow-origin': '*',
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache, no-transform',
    })
    const { port } = at.server.address() as net.AddressInfo
    const head = await fetch(`http://127.0.0.1:${port}/`, { method: 'HEAD' })
    expect([head.status, await head.text()]).toEqual([200, ''])
  })

  it('keeps nothing of a client that has gone before its stream begins', async () => {
    const events = channels()
    let begun: http.ServerResponse | null = null
    const { server } = await place(
      http.createServer((request, response) => {
        response.on('close', () => {
          events.stream('news', request, response)
          begun = response
        })
      }),
    )
    const { port } = server.address() as net.AddressInfo
    const asked = http.get({ port, host: '127.0.0.1', agent: false }).on('error', () => {})
    server.once('request', () => asked.destroy())
    const response = await until('it would begin', () => begun)
    expect(response.listenerCount('drain')).toBe(0)
  })

  it('moves its streams without a hook of the application', async () => {
    const events = channels()
    const [from, to] = [await placeOf(events), await placeOf(events)]
    const client = await Client.of(from, 'news')
    await events.publish('news', 'one')
    await client.gets('one')
    await until('it has moved', () => carry(from, to) === 1)
    await events.publish('news', 'two')
    await client.gets('two')
    expect(client.told).toEqual(['#0', '#1 data: one', '#2 data: two', ''])
    expect(client.ended).toBe(false)
  })

  it('gives a client that reads slowly each event once, in order, however often its stream moves meanwhile', async () => {
    const events = channels(1_000)
    const places = await Promise.all([placeOf(events), placeOf(events), placeOf(events)])
    const client = await Client.of(places[0]!, 'news')
    // More than the kernel keeps for a client that does not read.
    const [text, most] = ['x'.repeat(500_000), 13]
    let last = 0
    for (const [from, to] of [places.slice(0, 2), places.slice(1)]) {
      client.answer.pause()
      for (let n = 0; n < most; n++) await events.publish('news', `${++last} ${text}`)
      await until('it has moved', () => carry(from!, to!) === 1)
      await events.publish('news', `${++last}`)
      client.answer.resume()
      await client.gets(`data: ${last}\n`)
    }
    const numbers = [...client.text.matchAll(/^data: (\d+)/gm)].map(([, n]) => Number(n))
    expect(numbers).toEqual(Array.from({ length: last }, (_, n) => n + 1))
  })

  it.each(['reads', 'reads slowly'] as const)(
    'gives a client that %s each event once, in order, whatever its stream is told of its position, also when it reconnects',
    async how => {
      vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
      const [rounds, keep] = [2, 60]
      const events = channels(keep)
      const places = await Promise.all([placeOf(events), placeOf(events)])
      let client = await Client.of(places[0]!, 'news')
      const heard: number[] = []
      const numbersOf = (text: string) => [...text.matchAll(/^data: (\d+)/gm)].map(([, n]) => Number(n))
      const text = how === 'reads' ? '' : 'x'.repeat(500_000)
      let last = 0
      const told = async () => {
        await events.publish('news', `${++last} .`)
        client.answer.resume()
        await client.gets(`data: ${last} .`)
      }
      for (let round = 0; round < rounds; round++) {
        const [from, to] = round % 2 === 0 ? places : places.toReversed()
        if (how === 'reads slowly') client.answer.pause()
        // More than the kernel keeps for a client that does not read.
        for (let n = 0; n < 13; n++) await events.publish('news', `${++last} ${text}`)
        vi.advanceTimersByTime(BEAT_MS)
        await until('it has moved', () => carry(from!, to!) === 1)
        vi.advanceTimersByTime(BEAT_MS)
        await told()
        // Without a beat the events of others would outrun what is kept.
        for (let n = 0; n < 2; n++) {
          for (let other = 0; other < keep - 20; other++) await events.publish('others', `${other}`)
          const before = client.lastId
          vi.advanceTimersByTime(BEAT_MS)
          await until('it has its position', () => client.lastId !== before)
        }
        heard.push(...numbersOf(client.text))
        const { lastId } = client
        expect(client.text).not.toContain('event: gap')
        client.answer.destroy()
        await events.publish('news', `${++last}`)
        client = await Client.of(to!, 'news', lastId)
        await told()
      }
      expect(client.text).not.toContain('event: gap')
      heard.push(...numbersOf(client.text))
      expect(heard).toEqual(Array.from({ length: last }, (_, n) => n + 1))
    },
  )

  it('gives a moved stream an event that another hook has brought in the same turn', async () => {
    const events = channels()
    let brings = true
    const http = {
      serialize: () => {
        if (brings) void events.publish('news', 'two')
        brings = false
        return new Uint8Array()
      },
      restore() {},
    }
    const [from, to] = [await placeOf(events, { http }), await placeOf(events, { http })]
    const client = await Client.of(from, 'news')
    await events.publish('news', 'one')
    await client.gets('one')
    await until('it has moved', () => carry(from, to) === 1)
    await events.publish('news', 'three')
    await client.gets('three')
    expect(client.told).toEqual(['#0', '#1 data: one', '#2 data: two', '#3 data: three', ''])
  })

  it('publishes nothing again when its process joins a second time', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-events-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const service = { service: 'shop', control: false, stateFile: join(folder, 'state') } as const
    const name = `events ${names + 1}`
    const before = await joinService(service)
    await before.ready()
    const schema = defineSection({ version: 1, codec: codec.msgpack<object>(), secret: true })
    const section = before.section(name, schema)
    await section.put('head', { start: 'a', last: 1 })
    await section.put('1', { channel: 'news', data: 'one' })
    await before.close()
    const events = channels()
    const gone = await joinService(service)
    await gone.close()
    const next = await joinService(service)
    onTestFinished(() => next.close({ timeout: 0 }))
    await next.ready()
    await events.publish('news', 'two')
    // The section has the schema of the library.
    const kept = [...next.section(name)].flatMap(([, entry]) => Reflect.get(entry, 'data') ?? [])
    expect(kept).toEqual(['one', 'two'])
  })

  it('refuses wrong options, a second log of the same name, and events that are no text', async () => {
    const events = channels()
    const wrong = expect.objectContaining({ code: 'ERR_FDB_OPTION' })
    expect(() => new EventChannels({ name: `events ${names}` })).toThrow(wrong)
    expect(() => new EventChannels({ keep: 0 })).toThrow(wrong)
    expect(() => events.stream('news', untyped({}), untyped({}))).toThrow(wrong)
    await expect(events.publish('', 'x')).rejects.toThrow(wrong)
    await expect(events.publish('news', JSON.parse('1'))).rejects.toThrow(wrong)
    await expect(events.publish('news', 'x', { event: 'a\nb' })).rejects.toThrow(wrong)
  })
})
