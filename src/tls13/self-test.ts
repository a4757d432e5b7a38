import { once } from 'node:events'
import type net from 'node:net'
import type tls from 'node:tls'
import { InOrder } from '../base/in-order.js'
import { nodeTls } from '../base/lazy.js'
import { duplicateLent, socketOver, socketPair } from '../kernel/index.js'
import { descriptorOf, stopReading } from '../node/socket-handle.js'
import { TLS_COUNTS } from '../node/tls-counts.js'
import { TlsPosition } from './exporter.js'
import { factsOf, MovedTlsSocket } from './tls-socket.js'

const TEST_MS = 10_000
/** Tests of several servers would hold the event loop together in each of their turns. */
const TESTS = new InOrder()
const MANUAL = { manualStart: true } as net.SocketConstructorOpts

/**
 * Moves two connections with the certificate and settings of a server within this process, one with a resumed session. Resolves with `unknown` if that fails: then no connection of the server may
 * move, because this Node counts or logs in another way, or OpenSSL is configured to send other records. `old`: the server has no TLS 1.3.
 * The test takes about 10 ms of processor time, at most a few in one turn of the event loop, and keeps no process alive.
 */
export function movesTls(
  context: tls.SecureContext | undefined,
  limitMs = TEST_MS,
): Promise<'works' | 'old' | 'unknown'> {
  return TESTS.run(() => testMoves(context, limitMs))
}

async function testMoves(
  context: tls.SecureContext | undefined,
  limitMs: number,
): Promise<'works' | 'old' | 'unknown'> {
  if (!TLS_COUNTS.works || context === undefined) return 'unknown'
  try {
    const session = await moveOne(context, undefined, limitMs)
    // Without a session no client of the server can resume one.
    if (session !== undefined) await moveOne(context, session, limitMs)
    return 'works'
  } catch (error) {
    return error instanceof OldProtocol ? 'old' : 'unknown'
  }
}

class OldProtocol extends Error {}

/** Resolves with the client's session, if it was given one. Rejects if the connection does not work after the move. */
async function moveOne(
  secureContext: tls.SecureContext,
  session: Buffer | undefined,
  limitMs: number,
): Promise<Buffer | undefined> {
  const signal = AbortSignal.timeout(limitMs)
  const [here, there] = socketPair('test of TLS')
  const { connect, TLSSocket } = nodeTls()
  const raw = socketOver(here, MANUAL).unref()
  const own = new TLSSocket(raw, { isServer: true, secureContext })
  const position = new TlsPosition(own)
  own.on('keylog', (line: Buffer) => {
    position.log(line)
    line.fill(0)
  })
  own.once('secure', () => position.secured(true))
  const client = connect({
    socket: socketOver(there, MANUAL).unref(),
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
    ...(session && { session }),
  })
  for (const socket of [raw, own, client]) socket.on('error', () => {})
  let ticket: Buffer | undefined
  client.once('session', given => {
    ticket = given
  })
  let moved: MovedTlsSocket | null = null
  try {
    await exchange(client, own, signal)
    await exchange(own, client, signal)
    if (own.getProtocol() !== 'TLSv1.3') throw new OldProtocol()
    const state = position.state()
    const descriptor = descriptorOf(own)
    if (state === null || descriptor === null) throw new Error('the position is not known')
    stopReading(own)
    const fd = duplicateLent(descriptor, 'test of TLS')
    const facts = factsOf(own)
    own.destroy()
    moved = new MovedTlsSocket(socketOver(fd, MANUAL).unref(), state, facts)
    moved.on('error', () => {})
    await exchange(client, moved, signal)
    await exchange(moved, client, signal)
    return ticket
  } finally {
    moved?.destroy()
    client.destroy()
    own.destroy()
  }
}

async function exchange(
  from: tls.TLSSocket | MovedTlsSocket,
  to: tls.TLSSocket | MovedTlsSocket,
  signal: AbortSignal,
): Promise<void> {
  const sent = Buffer.from('test')
  const got = once(to, 'data', { signal })
  from.write(sent)
  const [bytes] = (await got) as [Buffer]
  if (!sent.equals(bytes)) throw new Error('another text arrived')
}
