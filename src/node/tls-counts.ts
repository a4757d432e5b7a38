import { EventEmitter } from 'node:events'
import type net from 'node:net'
import type tls from 'node:tls'
import { nodeTls } from '../base/lazy.js'
import { socketOver, socketPair, takeBytes } from '../kernel/index.js'
import { internal } from './internal.js'
import { observe, setMethod } from './observed-events.js'
import { descriptorOf, handleOf, type SocketHandle } from './socket-handle.js'
import { waitsWhole } from './unsent-bytes.js'

interface CountingHandle extends SocketHandle {
  readonly bytesRead: number
  readonly bytesWritten: number
}

/** `tlsSocket._handle` on Node 20 to 26: encrypts between its own bytes and those of `_parent`; `writeQueueSize` counts encrypted bytes. */
interface TlsHandle extends CountingHandle {
  readonly _parent?: CountingHandle
  /** Decrypts bytes as if they had been read. */
  receive(bytes: Uint8Array): void
}

/** Bytes that a native TLS socket has read and written, encrypted and not. */
export interface TlsCounts {
  readonly plainRead: number
  readonly plainWritten: number
  readonly read: number
  readonly written: number
  /** All written bytes are encrypted, and the kernel has them, but for those that wait in a corked stream. */
  readonly isSent: boolean
}

/** Returns null for a closed socket. */
export function tlsCountsOf(socket: tls.TLSSocket): TlsCounts | null {
  const handle = handleOf(socket) as TlsHandle | null
  const parent = handle?._parent
  if (!handle || !parent) return null
  return {
    plainRead: handle.bytesRead,
    plainWritten: handle.bytesWritten,
    read: parent.bytesRead,
    written: parent.bytesWritten,
    isSent: waitsWhole(socket) && handle.writeQueueSize === 0 && parent.writeQueueSize === 0,
  }
}

/** Whether the server asks the client for a certificate in each handshake. */
export function asksForCertificate(socket: tls.TLSSocket): boolean {
  return (socket as unknown as { readonly _requestCert: boolean })._requestCert
}

interface Writing {
  _writeGeneric(...args: never[]): unknown
}

/**
 * Calls `wrote` with the bytes of each write, and with those that OpenSSL has made of them, until the returned function is called. Node takes sent bytes off the queue in a later turn only, so the
 * queue grows by what a write adds.
 */
export function countWrites(
  socket: tls.TLSSocket,
  wrote: (bytes: number, encryptedBytes: number) => void,
): () => void {
  const inside = socket as unknown as Writing
  const write = inside._writeGeneric
  const counts = () => {
    const handle = handleOf(socket) as TlsHandle | null
    return handle && [handle.bytesWritten, handle.writeQueueSize]
  }
  setMethod(inside, '_writeGeneric', (...args) => {
    const before = counts()
    try {
      return write.apply(inside, args)
    } finally {
      const after = counts()
      if (before && after) wrote(after[0]! - before[0]!, after[1]! - before[1]!)
    }
  })
  return () => Reflect.deleteProperty(inside, '_writeGeneric')
}

/** Calls `read` for each chunk that arrives from now on. OpenSSL passes on the content of one record at a time. */
export function countChunks(socket: tls.TLSSocket, read: () => void): void {
  const { push } = socket
  setMethod(socket, 'push', (chunk: unknown, ...others: never[]) => {
    if (chunk !== null) read()
    return push.call(socket, chunk, ...others)
  })
}

/** Decrypts the next `bytes` of those that wait in the kernel, although nothing is read from it. Returns how many they were; they are not in the counts. */
export function readNext(socket: tls.TLSSocket, bytes: number): number {
  const handle = handleOf(socket) as TlsHandle | null
  const descriptor = descriptorOf(socket)
  if (handle === null || descriptor === null) return 0
  let taken: Uint8Array
  try {
    taken = takeBytes(descriptor, bytes)
  } catch {
    // The socket will emit the error.
    return 0
  }
  try {
    handle.receive(taken)
  } catch (error) {
    // A listener of the program has thrown: uncaught, as when Node reads.
    process.nextTick(() => {
      throw error
    })
  }
  return taken.length
}

/**
 * Calls `secret` for each line of the key log of the connections that `server` accepts from now on. The line is wiped after the call, unless the program reads the log too. Returns a function that
 * ends this for later connections.
 */
export function observeSecrets(
  server: tls.Server,
  secret: (socket: tls.TLSSocket, line: Buffer) => void,
): () => void {
  // Node asks OpenSSL for the log of a new connection if the server has a listener for it.
  const listens = () => {
    setMethod(server, 'listenerCount', countWithKeylog)
    queueMicrotask(() => Reflect.deleteProperty(server, 'listenerCount'))
  }
  return observe(server, {
    connection: listens,
    keylog: (line: Buffer, socket: tls.TLSSocket) => {
      secret(socket, line)
      if (server.listenerCount('keylog') === 0 && socket.listenerCount('keylog') === 1) line.fill(0)
    },
  })
}

function countWithKeylog(this: tls.Server, event: never, ...others: never[]): number {
  const count = EventEmitter.prototype.listenerCount as (...args: never[]) => number
  return event === 'keylog' ? 1 : count.call(this, event, ...others)
}

export const TLS_COUNTS = internal(
  'tlsSocket._handle with bytesRead, bytesWritten, writeQueueSize, receive and _parent, tlsSocket._writeGeneric and _requestCert',
  'TLS connections do not move, they drain',
  () => {
    const { TLSSocket } = nodeTls()
    const [here, there] = socketPair('probe of TLS')
    const below = socketOver(here, { manualStart: true } as net.SocketConstructorOpts)
    const above = new TLSSocket(below, { isServer: true, requestCert: true })
    above.on('error', () => {})
    try {
      const counts = tlsCountsOf(above)
      const facts = counts && Object.values(counts)
      return (
        facts?.slice(0, 4).every(count => count === 0) === true &&
        counts?.isSent === true &&
        typeof (handleOf(above) as TlsHandle).receive === 'function' &&
        typeof (above as unknown as Writing)._writeGeneric === 'function' &&
        asksForCertificate(above)
      )
    } finally {
      above.destroy()
      there.close()
    }
  },
)
