import { readdirSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { memoryFile } from '../../src/kernel/index.js'
import type { RelayConnection } from '../../src/relay/connection.js'
import { UpstreamPools } from '../../src/relay/index.js'
import type { ConnectionRecord } from '../../src/relay/record-message.js'
import type { RelayContext } from '../../src/relay/relay-context.js'
import { TimerWheel } from '../../src/relay/timer-wheel.js'
import { exportConnection, importConnection } from '../../src/relay/transfer.js'

const NOTHING = Buffer.alloc(0)
const RELAY = { wheel: new TimerWheel(), pools: new UpstreamPools() } as unknown as RelayContext

function streamOf(descriptor: number, unread: string) {
  const calls: string[] = []
  return {
    calls,
    alive: true,
    connecting: false,
    descriptor,
    remoteAddress: '9.9.9.9',
    detach: () => ({ unread: Buffer.from(unread), unsent: NOTHING, ended: true }),
    write: (bytes: Buffer) => void calls.push(`write ${bytes}`),
    end: () => void calls.push('end'),
  }
}

function connectionOf(facts: object, client: object): RelayConnection {
  return {
    exchange: null,
    requestReader: null,
    held: null,
    ended: false,
    origin: { listener: 'web', scheme: 'http' },
    client,
    tick: -1,
    closing: false,
    detach() {},
    arm() {},
    settle() {},
    onData() {},
    ...facts,
  } as unknown as RelayConnection
}

describe('a connection that leaves in the middle of a request head', () => {
  it('takes along what was read of the head, and behind it what its stream had read', () => {
    using file = memoryFile('client', 'client')
    const requestReader = { pending: Buffer.from('GET / HT') }
    const left = exportConnection(connectionOf({ requestReader }, streamOf(file.raw, 'TP/1.1\r\n')), RELAY)
    expect(left?.record.fromClient.toString()).toBe('GET / HTTP/1.1\r\n')
    left?.client.close()
  })

  it('takes along what was held back for the next request in the same order', () => {
    using file = memoryFile('client', 'client')
    const held = Buffer.from('GET /a')
    const left = exportConnection(connectionOf({ held }, streamOf(file.raw, ' HTTP/1.1')), RELAY)
    expect(left?.record.fromClient.toString()).toBe('GET /a HTTP/1.1')
    left?.client.close()
  })

  it('takes along what its stream had read where nothing of a head is there', () => {
    using file = memoryFile('client', 'client')
    const left = exportConnection(connectionOf({}, streamOf(file.raw, 'GET')), RELAY)
    expect(left?.record.fromClient.toString()).toBe('GET')
    left?.client.close()
  })
})

describe('a connection that cannot leave as there is no duplicate of its server’s', () => {
  it('stays, and leaves no duplicate of its client’s behind', () => {
    using file = memoryFile('client', 'client')
    const exchange = { upstream: streamOf(1 << 20, '') }
    const connection = connectionOf({ exchange }, streamOf(file.raw, ''))
    const before = readdirSync('/proc/self/fd').length
    expect(() => exportConnection(connection, RELAY)).toThrow()
    expect(readdirSync('/proc/self/fd')).toHaveLength(before)
  })
})

describe('a connection that comes', () => {
  const record = (facts: Partial<ConnectionRecord>): ConnectionRecord => ({
    listener: 'web',
    scheme: 'http',
    client: '9.9.9.9',
    remainingMs: -1,
    clientEnded: false,
    endedClient: false,
    closing: false,
    fromClient: NOTHING,
    toClient: NOTHING,
    exchange: null,
    ...facts,
  })

  it('is ended behind what is still to be written, where it was ended before', () => {
    const client = streamOf(-1, '')
    const came = record({ toClient: Buffer.from('rest'), endedClient: true })
    importConnection(RELAY, came, connectionOf({}, client), null)
    expect(client.calls).toEqual(['write rest', 'end'])
  })
})
