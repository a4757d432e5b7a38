import type net from 'node:net'
import type { Writable } from 'node:stream'
import { closeAll, socketOver, socketPair } from '../kernel/index.js'
import { internal } from './internal.js'
import { handleOf, isPlain } from './socket-handle.js'

type Chunk = string | Buffer

/** Buffers, if `allBuffers`; otherwise each chunk is followed by its encoding. */
type Chunks = readonly Chunk[] & { readonly allBuffers?: boolean }

/** The write of a socket that libuv carries out. Neither `buffer` nor `_chunks` is set for a single string. */
interface WriteRequest {
  readonly handle?: unknown
  /** A single buffer; later releases of Node 24, and Node 26, also have the chunks here. */
  readonly buffer?: Buffer | Chunks | null
  /** The chunks of several writes, in earlier releases. */
  readonly _chunks?: Chunks
  callback?: (error?: Error | null) => void
}

/** A write that waits until the one before has ended. */
interface WaitingWrite {
  readonly chunk: Chunk
  readonly encoding: string
  callback?: (error?: Error | null) => void
}

interface SocketWrites {
  readonly _writableState: { getBuffer(): WaitingWrite[] }
}

/** A connection above a socket of Node that knows the bytes that it has not passed on. */
interface OwnWrites {
  unsentBytes?(): Buffer | null
}

interface ProcessRequests {
  _getActiveRequests?(): WriteRequest[]
}

const NOTHING = Buffer.alloc(0)
const MORE_THAN_TAKEN = 1024 * 1024

export const UNSENT_BYTES = internal(
  'process._getActiveRequests() with the chunks of writes, and socket._writableState.getBuffer()',
  'a WebSocket moves only after its client has received everything',
  () => {
    const [here, there] = socketPair('probe of writes')
    const socket = socketOver(here, { manualStart: true } as net.SocketConstructorOpts)
    try {
      const large = Buffer.alloc(MORE_THAN_TAKEN, 'x')
      socket.cork()
      socket.write(large)
      socket.write('é')
      socket.uncork()
      socket.write('later')
      const sent = MORE_THAN_TAKEN - (unsentBytes(socket)?.length ?? Number.NaN) + Buffer.byteLength('élater')
      const rest = Buffer.concat([large.subarray(sent), Buffer.from('élater')])
      return sent > 0 && unsentBytes(socket)?.equals(rest) === true
    } finally {
      socket.destroy()
      closeAll([there])
    }
  },
)

function requestOf(handle: object): WriteRequest | undefined {
  return (process as ProcessRequests)._getActiveRequests?.().find(request => request.handle === handle)
}

function bytesOf(chunk: Chunk, encoding: string): Buffer {
  return typeof chunk === 'string' ? Buffer.from(chunk, encoding as BufferEncoding) : chunk
}

/** Returns the bytes of the write that libuv carries out, or null if they are unknown. */
function currentWrite(handle: object): Buffer | null {
  const request = requestOf(handle)
  const chunks = request?._chunks ?? request?.buffer ?? null
  if (chunks === null || Buffer.isBuffer(chunks)) return chunks
  if (chunks.allBuffers === true) return Buffer.concat(chunks as readonly Buffer[])
  const bytes: Buffer[] = []
  for (let i = 0; i < chunks.length; i += 2) bytes.push(bytesOf(chunks[i]!, chunks[i + 1] as string))
  return Buffer.concat(bytes)
}

/**
 * Returns all bytes that were written to the socket and that the kernel has not taken, or null if they are unknown. The result is valid in this turn of the
 * event loop.
 */
export function unsentBytes(socket: net.Socket): Buffer | null {
  if (socket.writableLength === 0 && !isPlain(socket)) return NOTHING
  const { unsentBytes: own } = socket as OwnWrites
  if (own !== undefined) return own.call(socket)
  if (!isPlain(socket)) return waitsWhole(socket) ? waitingBytes(socket) : null
  const handle = handleOf(socket)
  if (handle === null) return null
  const { writeQueueSize } = handle
  if (writeQueueSize === 0 && socket.writableLength === 0) return NOTHING
  const current = writeQueueSize === 0 ? NOTHING : currentWrite(handle)
  if (current === null || current.length < writeQueueSize) return null
  return Buffer.concat([current.subarray(current.length - writeQueueSize), waitingBytes(socket)])
}

/** Whether everything that was written to a stream and is not sent waits in it: no write is under way. */
export function waitsWhole(stream: Writable): boolean {
  if (stream.writableLength === 0) return true
  if (!UNSENT_BYTES.works) return false
  const waiting = (stream as unknown as SocketWrites)._writableState.getBuffer()
  return waiting.reduce((sum, { chunk }) => sum + chunk.length, 0) === stream.writableLength
}

/** Returns all bytes that wait in a stream, after its current write. */
export function waitingBytes(stream: Writable): Buffer {
  const waiting = (stream as unknown as SocketWrites)._writableState.getBuffer()
  return Buffer.concat(waiting.map(({ chunk, encoding }) => bytesOf(chunk, encoding)))
}

/** Lets the callbacks of unfinished writes report success when the socket is destroyed, because another process sends the bytes. */
export function succeedUnfinishedWrites(socket: net.Socket): void {
  const handle = isPlain(socket) ? handleOf(socket) : null
  // Since Node 22 a write that is under way would fail with ECANCELED.
  const current = handle === null ? undefined : requestOf(handle)
  for (const write of [current, ...(socket as unknown as SocketWrites)._writableState.getBuffer()]) {
    const callback = write?.callback
    if (callback !== undefined) write!.callback = () => callback(null)
  }
}
