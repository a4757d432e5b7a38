import { once } from 'node:events'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'
import tls from 'node:tls'
import { Worker } from 'node:worker_threads'
import { describe, expect, it, onTestFinished } from 'vitest'
import { addonFile } from '../../src/kernel/addon.js'
import { native, type TlsConnection } from '../../src/kernel/native.js'
import { tlsCountsOf } from '../../src/node/tls-counts.js'
import { CERTIFICATE, KEY } from '../e2e/relay-certificate.js'
import { until } from '../processes/until.js'

/** A connection of a TLS server and its client, and what the addon has noticed of it. */
async function connection(version: 'TLSv1.2' | 'TLSv1.3' = 'TLSv1.3') {
  const server = tls.createServer({ key: KEY, cert: CERTIFICATE, minVersion: version, maxVersion: version })
  const made: (TlsConnection | null)[] = []
  server.prependListener('connection', () => native.beginTls())
  server.on('connection', () => made.push(native.madeTls()))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const raw = connect(port, '127.0.0.1')
  const held: Buffer[] = []
  let holds = false
  // Keeps what the client sends from now on.
  const hold = () => {
    holds = true
    return { held: () => Buffer.concat(held), pass: (bytes: Buffer) => raw.write(bytes) }
  }
  const below = new Duplex({
    read() {},
    write(chunk, _encoding, done) {
      if (holds) held.push(chunk)
      else raw.write(chunk)
      done()
    },
  })
  raw.on('data', bytes => below.push(bytes)).on('end', () => below.push(null))
  const client = tls.connect({ socket: below, rejectUnauthorized: false })
  const [socket] = (await once(server, 'secureConnection')) as [tls.TLSSocket]
  // 'secureConnection' comes in the middle of a call of OpenSSL's.
  await nextTurn()
  onTestFinished(() => {
    client.destroy()
    raw.destroy()
    socket.destroy()
    server.close()
  })
  return { made: made[0]!, socket, client, hold }
}

/** A connection without a handshake. */
function unfinished(): { made: TlsConnection | null; socket: tls.TLSSocket } {
  native.beginTls()
  const socket = new tls.TLSSocket(undefined as unknown as Socket, { isServer: true })
  onTestFinished(() => void socket.destroy())
  return { made: native.madeTls(), socket }
}

const BYTES = Buffer.from('between two writes, ')

describe('bytes over a TLS connection of Node', () => {
  it.each(['TLSv1.2', 'TLSv1.3'] as const)('arrive before the next write (%s)', async version => {
    const { made, socket, client } = await connection(version)
    expect(native.writeTls(made, socket.getFinished()!, BYTES)).toBe(true)
    socket.end('and the next one')
    let received = ''
    for await (const chunk of client) received += chunk
    expect(received).toBe('between two writes, and the next one')
  })

  it('reach neither another connection nor one before its handshake', async () => {
    const [one, other] = [await connection(), await connection()]
    expect(native.writeTls(one.made, other.socket.getFinished()!, BYTES)).toBe(false)
    expect(native.writeTls(unfinished().made!, one.socket.getFinished()!, BYTES)).toBe(false)
  })

  it('do not go to a connection that ends, or that OpenSSL has freed', async () => {
    const { made, socket, client } = await connection()
    const finished = Buffer.from(socket.getFinished()!)
    client.resume()
    socket.end()
    await once(client, 'end')
    expect(native.writeTls(made, finished, BYTES)).toBe(false)
    socket.destroy()
    await once(socket, 'close')
    expect(native.writeTls(made, finished, BYTES)).toBe(false)
  })

  it('have a number from 1 to 32,767', async () => {
    const { made, socket } = await connection()
    const write = (count: number) => () => native.writeTls(made, socket.getFinished()!, new Uint8Array(count))
    expect(write(0)).toThrow(RangeError)
    expect(write(32_768)).toThrow(RangeError)
  })
})

describe('OpenSSL', () => {
  it.each(['TLSv1.2', 'TLSv1.3'] as const)('tells that a record has arrived in part (%s)', async version => {
    const { made, socket, client, hold } = await connection(version)
    const finished = socket.getFinished()!
    const isAmid = () => native.amidTlsRecord(made, finished)
    const { held, pass } = hold()
    let heard = ''
    socket.on('data', bytes => (heard += bytes))
    client.write(BYTES)
    await until('the record', () => held().length > BYTES.length)
    const before = tlsCountsOf(socket)!.read
    const seen: (boolean | null)[] = []
    // With a part of the header, with the header alone, with a part of the rest.
    const ends = [1, 5, 6, 22, held().length - 1, held().length]
    for (const [i, end] of ends.entries()) {
      seen.push(isAmid())
      pass(held().subarray(ends[i - 1] ?? 0, end))
      await until('a part', () => tlsCountsOf(socket)?.read === before + end)
    }
    expect(seen).toEqual([false, true, true, true, true, true])
    expect([isAmid(), heard]).toEqual([false, `${BYTES}`])
  })

  it('tells nothing about another connection, or one that it has freed', async () => {
    const [one, other] = [await connection(), await connection()]
    expect(native.amidTlsRecord(one.made, other.socket.getFinished()!)).toBeNull()
    expect(native.amidTlsRecord(unfinished().made!, one.socket.getFinished()!)).toBeNull()
    const finished = Buffer.from(one.socket.getFinished()!)
    one.socket.destroy()
    await once(one.socket, 'close')
    expect(native.amidTlsRecord(one.made, finished)).toBeNull()
  })
})

describe('the connection that OpenSSL has made', () => {
  it('belongs to one thread, and ends with it', async () => {
    native.beginTls()
    const code = `
      const native = require(${JSON.stringify(addonFile())})
      const tls = require('node:tls')
      native.beginTls()
      const socket = new tls.TLSSocket(undefined, { isServer: true })
      const made = native.madeTls()
      require('node:worker_threads').parentPort.postMessage(made !== null && !native.writeTls(made, new Uint8Array(1), new Uint8Array(1)))
      setInterval(() => socket, 1_000)`
    const worker = new Worker(code, { eval: true })
    expect(await once(worker, 'message')).toEqual([true])
    expect(native.madeTls()).toBeNull()
    await worker.terminate()
  })

  it('becomes known once, and only if it is the only one', () => {
    native.beginTls()
    expect(native.madeTls()).toBeNull()
    expect(unfinished().made).not.toBeNull()
    expect(native.madeTls()).toBeNull()
    native.beginTls()
    for (let i = 0; i < 2; i++)
      new tls.TLSSocket(undefined as unknown as Socket, { isServer: true }).destroy()
    expect(native.madeTls()).toBeNull()
  })

  it('has a kind of its own: other objects of the addon are refused', () => {
    const keys = native.createKeys(1_000) as unknown as TlsConnection
    expect(() => native.writeTls(keys, BYTES, BYTES)).toThrow(TypeError)
    expect(() => native.amidTlsRecord(keys, BYTES)).toThrow(TypeError)
    const { made } = unfinished()
    expect(() => native.getKey(made as never, 'key')).toThrow(TypeError)
  })
})
