import { describe, expect, it } from 'vitest'
import type { ByteStream } from '../../src/relay/byte-stream.js'
import { quietMs, Tunnel } from '../../src/relay/exchange.js'
import { type ExchangeFacts, newFacts } from '../../src/relay/exchange-facts.js'

describe('how long nothing may happen in an exchange', () => {
  const timeouts = { connect: 1, tunnel: 2, stall: 3, response: 4 } as never
  const quiet = (facts: Partial<ExchangeFacts>, connecting: boolean, route?: object) =>
    quietMs({ ...newFacts(), ...facts }, connecting, timeouts, route as never)

  it('depends on what is waited for, and where that may be on the route', () => {
    const body = {} as never
    const route = { connectTimeout: 10, responseTimeout: 40 }
    expect([quiet({}, true), quiet({}, true, route)]).toEqual([1, 10])
    expect([quiet({ phase: 'tunnel' }, false), quiet({ phase: 'tunnel' }, false, route)]).toEqual([2, 2])
    expect([quiet({ phase: 'answering' }, false), quiet({ requestBody: body }, false, route)]).toEqual([3, 3])
    expect([quiet({}, false), quiet({}, false, route)]).toEqual([4, 40])
  })
})

describe('a tunnel without frames', () => {
  it('passes on, and counts, nothing of its client when it has ended', () => {
    const passed: string[] = []
    const stream = (name: string) =>
      ({
        write: (chunk: Buffer, from: number, to: number) =>
          passed.push(`${name} ${chunk.toString('latin1', from, to)}`),
        end: () => passed.push(`${name} ends`),
      }) as unknown as ByteStream
    const exchange = { facts: newFacts(), upstream: stream('server'), send: () => {} }
    const tunnel = new Tunnel(exchange)
    tunnel.fromClient(Buffer.from('before'), 6)
    tunnel.end(stream('client'))
    tunnel.fromClient(Buffer.from('after'), 5)
    expect(passed).toEqual(['server before', 'client ends', 'server ends'])
    expect(exchange.facts.bytesReceived).toBe(6)
  })
})
