import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import tls from 'node:tls'
import { expect, onTestFinished, test } from 'vitest'
import { duplicateLent } from '../../../src/kernel/index.js'
import {
  type ByteStream,
  NO_OWNER,
  SocketStream,
  TlsCarrier,
  tlsStreamFromFd,
} from '../../../src/relay/index.js'
import { CERTIFICATE, KEY } from '../../e2e/relay-certificate.js'
import { until } from '../../processes/until.js'

/** A client, whose bytes pass a pipe, and the stream of its server. */
async function secured(options: tls.ConnectionOptions = {}, isCounted = true) {
  const carrier = new TlsCarrier(error => {
    throw error
  })
  onTestFinished(() => carrier.release())
  let heard = ''
  const owner = {
    ...NO_OWNER,
    onData: (_stream: ByteStream, chunk: Buffer, to: number) => {
      heard += chunk.toString('latin1', 0, to)
    },
  }
  const server = tls.createServer({ cert: CERTIFICATE, key: KEY })
  carrier.follow(server)
  const folder = mkdtempSync(join(tmpdir(), 'fdb-tls-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 's')
  await new Promise<void>(resolve => server.listen(path, resolve))
  const opened = new Promise<ByteStream>(resolve =>
    server.on('secureConnection', socket => {
      carrier.secured(socket, isCounted)
      resolve(new SocketStream(socket, owner, { open: 0 }, carrier))
    }),
  )
  const pipe = net.connect(path)
  let isHeld = false
  const held: Buffer[] = []
  const entry = net.createServer(raw => {
    pipe.pipe(raw)
    raw.on('data', bytes => (isHeld ? held.push(bytes) : pipe.write(bytes)))
  })
  await new Promise<void>(resolve => entry.listen(0, '127.0.0.1', resolve))
  const { port } = entry.address() as net.AddressInfo
  const client = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...options })
  client.on('error', () => {})
  onTestFinished(() => {
    for (const one of [client, pipe]) one.destroy()
    for (const one of [server, entry]) one.close()
  })
  await once(client, 'secureConnect')
  const stream = await opened
  client.write('first')
  await until('the first bytes', () => heard === 'first')
  return {
    client,
    carrier,
    stream,
    heard: () => heard,
    pipe,
    /** The records that the client sends from now on. */
    hold() {
      isHeld = true
      return () => Buffer.concat(held)
    },
    /** Moves within this process. */
    move(from: ByteStream): ByteStream {
      const fd = duplicateLent(from.descriptor, 'test')
      const { unread, unsent, tls: position } = from.detach()
      expect([unread.length, position?.suite?.startsWith('TLS_')]).toEqual([0, true])
      const to = tlsStreamFromFd(fd, owner, { open: 0 }, position!, carrier)
      onTestFinished(() => to.destroy())
      to.setReading(true)
      if (unsent.length > 0) to.write(unsent)
      return to
    },
  }
}

const LARGE = 'a'.repeat(16_000)

test('a TLS stream reads a record to its end, and no further, before it moves', async () => {
  const { client, stream, heard, hold, pipe, move } = await secured()
  const held = hold()
  client.write(LARGE)
  client.write('later')
  await until('both records', () => held().length === LARGE.length + 'later'.length + 2 * 22)
  pipe.write(held().subarray(0, 9_000))
  await until('a part has come', () => stream.stays === 'half-record')
  let ready = 0
  const mayMove = () => stream.mayMove(() => ready++)
  // In one turn of the event loop, so that Node does not read the rest.
  expect([mayMove(), ready]).toEqual([false, 0])
  pipe.write(held().subarray(9_000))
  expect([mayMove(), ready, heard()]).toEqual([false, 1, `first${LARGE}`])
  expect(mayMove()).toBe(true)
  const moved = move(stream)
  await until('the last record', () => heard() === `first${LARGE}later`)
  moved.write('answer')
  expect(`${(await once(client, 'data'))[0]}`).toBe('answer')
})

test('a TLS stream stays amid a record whose part looks like records, however long nothing arrives', async () => {
  const { client, stream, heard, hold, pipe, move } = await secured({}, false)
  const held = hold()
  client.write(LARGE)
  await until('the record', () => held().length === LARGE.length + 22)
  pipe.write(held().subarray(0, 44))
  await until('a part has come', () => stream.stays === 'half-record')
  // By the counts alone the connection would be between two records when nothing has arrived for a moment.
  let ready = 0
  for (let looks = 0; looks < 4; looks++) {
    expect(stream.mayMove(() => ready++)).toBe(false)
    await until('it is looked at again', () => ready > looks)
  }
  pipe.write(held().subarray(44))
  await until('the record is whole', () => stream.stays === null)
  const moved = move(stream)
  moved.write('answer')
  expect([`${(await once(client, 'data'))[0]}`, heard()]).toEqual(['answer', `first${LARGE}`])
})

test('a TLS stream moves with everything sent, even if its owner always has more to write', async () => {
  const { client, stream, move } = await secured()
  const bytes = Buffer.alloc(1024 * 1024, 'x')
  let sent = 0
  const write = () => {
    stream.write(bytes)
    sent += bytes.length
  }
  stream.owner = { ...stream.owner!, onDrain: write }
  let received = 0
  client.on('data', chunk => (received += chunk.length))
  write()
  const to = await new Promise<ByteStream>(resolve => {
    const leave = () => {
      if (stream.alive && stream.mayMove(() => setImmediate(leave))) resolve(move(stream))
    }
    leave()
  })
  to.write('end')
  await until('all has come', () => received === sent + 'end'.length)
})

test('a TLS 1.2 stream cannot move', async () => {
  const { stream } = await secured({ maxVersion: 'TLSv1.2' })
  await until('that is known', () => stream.stays === 'tls1.2')
  expect([stream.movable, stream.mayMove(() => {})]).toEqual([false, false])
})

test('a slow reader gets all bytes of a moved TLS connection, also if its own side ends first', async () => {
  const { client, stream, heard, hold, pipe, move } = await secured()
  const moved = move(stream)
  const held = hold()
  const parts = Array.from({ length: 20 }, (_, n) => `part ${n}`)
  // Each in a record of its own.
  for (const part of parts) await new Promise(resolve => client.write(part, resolve))
  const sent = parts.join('')
  await until('the records', () => held().length === sent.length + 20 * 22)
  const { owner } = moved
  let hasClosed = false
  moved.owner = {
    ...owner!,
    onData: (from, chunk, to) => {
      owner!.onData(from, chunk, to)
      // The client ends too then.
      moved.end()
      moved.setReading(false)
      setImmediate(() => moved.setReading(true))
    },
    onClose: () => {
      hasClosed = true
    },
  }
  pipe.write(held())
  await until('it is closed', () => hasClosed)
  expect(heard()).toBe(`first${sent}`)
})
