import { once } from 'node:events'
import http from 'node:http'
import type net from 'node:net'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { type Place, place } from '../../connections-support/http-pair.js'
import { EventStreamEnds } from '../../connections-support/streams.js'
import { until } from '../../processes/until.js'

const TIMES = { plainMs: 400, tlsMs: 400, why: 'replaced' } as const

/** A client of an event stream, and the response that the application writes to. */
async function stream(begin: (response: http.ServerResponse) => void) {
  let response: http.ServerResponse | undefined
  const at: Place = await place(
    http.createServer((_request, given) => {
      response = given
      begin(given)
    }),
  )
  const { port } = at.server.address() as net.AddressInfo
  const client = { text: '', ended: false, cut: false }
  http
    .get({ port, host: '127.0.0.1' }, answer => {
      answer.setEncoding('utf8')
      answer.on('data', chunk => {
        client.text += chunk
      })
      answer.on('end', () => {
        client.ended = true
      })
      answer.on('error', () => {
        client.cut = true
      })
    })
    .on('error', () => {})
  await until('it has begun', () => client.text !== '')
  return { at, client, response: response! }
}

const events = (response: http.ServerResponse) => {
  response.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8' })
  response.write('data: 1\n\n')
}

describe('an event stream that does not move', () => {
  it('ends between two events, with a time after which the client connects again', async () => {
    const { at, client, response } = await stream(events)
    at.served.announceFixed(TIMES)
    response.write('event: x\n')
    response.write('data: 2')
    await until('it is due', () => Object.hasOwn(response, 'write'))
    response.write('\n')
    response.write('\n')
    await until('it has ended', () => client.ended)
    expect(client.text).toMatch(/^data: 1\n\nevent: x\ndata: 2\n\nretry: \d+\n\n$/)
    expect([client.cut, at.faults]).toEqual([false, []])
  })

  it('ends where it is if it was quiet, without a blank line that could end an event', async () => {
    const { at, client } = await stream(events)
    at.served.announceFixed(TIMES)
    await until('it has ended', () => client.ended)
    expect(client.text).toMatch(/^data: 1\n\nretry: \d+\n$/)
  })

  it('does not fail an application that writes on', async () => {
    const { at, client, response } = await stream(events)
    const errors: unknown[] = []
    response.on('error', error => errors.push(error))
    at.served.announceFixed({ ...TIMES, plainMs: 0 })
    for (let n = 2; n < 20; n++) response.write(`data: ${n}\n\n`)
    response.end('data: last\n\n')
    await until('it has ended', () => client.ended)
    expect(client.text).toMatch(/^data: 1\n\ndata: 2\n\nretry: \d+\n\n$/)
    expect(errors).toEqual([])
  })

  it('stays if this process serves again', async () => {
    const { at, client, response } = await stream(events)
    const { write, end } = response
    const ends = new EventStreamEnds()
    ends.leave(at.sockets, { withinMs: 60_000, why: 'replaced', failed: () => {} })
    ends.stay()
    expect([Object.hasOwn(response, 'write'), response.write, response.end]).toEqual([false, write, end])
    response.end('data: 2\n\n')
    await until('it has ended', () => client.ended)
    expect(client.text).toBe('data: 1\n\ndata: 2\n\n')
  })

  it.each([
    ['replaced', 'ended', 5_000],
    ['ended', 'replaced', 1_000],
  ] as const)(
    'names the time of the last reason, also if its process has served again: %s, then %s',
    async (before, why, retryMs) => {
      const random = vi.spyOn(Math, 'random').mockReturnValue(1)
      onTestFinished(() => random.mockRestore())
      const { at, client } = await stream(events)
      const ends = new EventStreamEnds()
      const leave = (why: 'replaced' | 'ended', withinMs: number) =>
        ends.leave(at.sockets, { withinMs, why, failed: () => {} })
      leave(before, 60_000)
      ends.stay()
      leave(before, 60_000)
      leave(why, 0)
      await until('it has ended', () => client.ended)
      expect(client.text).toContain(`retry: ${retryMs}\n`)
    },
  )

  it('gets its methods back if its client goes before its turn', async () => {
    const { at, response } = await stream(events)
    const listeners = response.listeners('close')
    const ends = new EventStreamEnds()
    ends.leave(at.sockets, { withinMs: 60_000, why: 'replaced', failed: () => {} })
    expect(Object.hasOwn(response, 'write')).toBe(true)
    at.sockets[0]!.destroy()
    await once(response, 'close')
    expect([Object.hasOwn(response, 'write'), response.listeners('close')]).toEqual([false, listeners])
  })

  it.each([
    ['of another type', { 'Content-Type': 'text/plain' }],
    ['with a length', { 'Content-Type': 'text/event-stream', 'Content-Length': '18' }],
    ['that the application compresses', { 'Content-Type': 'text/event-stream', 'Content-Encoding': 'gzip' }],
  ])('differs from an answer %s, which goes on', async (_title, headers) => {
    const { at, client, response } = await stream(given => {
      given.writeHead(200, headers)
      given.write('data: 1\n\n')
    })
    at.served.announceFixed({ ...TIMES, plainMs: 0 })
    expect(Object.hasOwn(response, 'write')).toBe(false)
    response.end('data: 2\n\n')
    await until('it has ended', () => client.ended)
    expect(client.text).toBe('data: 1\n\ndata: 2\n\n')
  })
})
