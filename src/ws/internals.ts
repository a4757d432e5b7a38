import type http from 'node:http'
import type net from 'node:net'
import { Duplex, type Writable } from 'node:stream'
import type { InflateRaw } from 'node:zlib'
import { INFLATE_WINDOW, inflateWindow } from '../node/inflate-window.js'

/** Everything that fd-broker uses of the package `ws` 8 and that is not its public API. {@link lacking} tests it against the installed release. */

type Callback = (error?: Error | null) => void

/** Parses frames. */
interface Receiver extends Writable {
  _state: number
  _loop: boolean
  _errored?: boolean
  /** The bytes that were written and not parsed. */
  _buffers: Buffer[]
  _bufferedBytes: number
  /** The frame that is being read. */
  readonly _fin: boolean
  readonly _opcode: number
  readonly _payloadLength: number
  readonly _mask?: Buffer | undefined
  /** The message that is being read: its opcode (0: none) and its complete frames. */
  readonly _compressed: boolean
  readonly _fragmented: number
  readonly _fragments: readonly Uint8Array[]
  readonly _numFragments?: number
  startLoop(done: Callback): void
}

/** States of the receiver. In a later state a message is inflated or delivered. */
const { GET_INFO, GET_LENGTH_16, GET_LENGTH_64, GET_DATA } = {
  GET_INFO: 0,
  GET_LENGTH_16: 1,
  GET_LENGTH_64: 2,
  GET_DATA: 4,
}

interface FrameOptions {
  readonly fin: boolean
  readonly opcode: number
}

/** A call that waits: a method of the sender, its arguments. */
type QueuedCall = [
  method: unknown,
  data: string | Uint8Array | Blob,
  compress: boolean,
  options: FrameOptions,
  done?: Callback,
]

/** Builds frames. `_state` is 0 while nothing is being compressed; otherwise calls wait in `_queue`. */
interface Sender {
  _state: number
  _queue: QueuedCall[]
  _firstFragment: boolean
  _compress: boolean
  dequeue(): void
}

const AT_REST = 0
const HELD = 1

export interface DeflateParams {
  server_no_context_takeover?: boolean
  client_no_context_takeover?: boolean
  server_max_window_bits?: number
  client_max_window_bits?: number
}

/** permessage-deflate of one connection. */
interface Compression {
  params: DeflateParams
  readonly _isServer: boolean
  readonly _maxPayload: number
  _inflate: InflateRaw | null
  _options: { zlibInflateOptions?: object }
  decompress(data: Buffer, fin: boolean, done: (error: Error | null, text?: Buffer) => void): void
}

/** Since 8.20 everything is in the options. */
type CompressionClass = new (options: object, isServer: boolean, maxPayload: number) => Compression

const DEFLATE = 'permessage-deflate'

interface Limits {
  readonly allowSynchronousEvents?: boolean
  readonly maxBufferedChunks?: number
  readonly maxFragments?: number
  readonly maxPayload?: number
  readonly skipUTF8Validation?: boolean
}

interface ServerOptions extends Limits {
  readonly perMessageDeflate?: object | boolean
  readonly WebSocket: WebSocketClass
}

export type Upgraded<Socket, Request> = (ws: Socket, request: Request) => void

/** The private side of a WebSocketServer. */
export interface ServerInside {
  readonly options: ServerOptions
  readonly clients?: Set<WebSocketInside>
  readonly _shouldEmitClose?: boolean
  _state?: number
  handleUpgrade: (
    request: http.IncomingMessage,
    socket: Duplex,
    head: Buffer,
    done: Upgraded<WebSocketInside, http.IncomingMessage>,
  ) => void
  emit(event: 'close'): boolean
  once(event: 'close', listener: () => void): unknown
}

const SERVER_CLOSED = 2

/** A WebSocket with its private side. */
export interface WebSocketInside {
  readonly readyState: number
  readonly protocol: string
  readonly isPaused: boolean
  binaryType: string
  close(code: number): void
  pause(): void
  resume(): void
  terminate(): void
  ping(data: Uint8Array): void
  pong(data: Uint8Array): void
  send(data: Uint8Array, options: { binary: boolean; compress: boolean; fin: boolean }): void
  on(event: 'close' | 'error', listener: () => void): unknown
  listeners(event: 'close'): (() => void)[]
  removeAllListeners(): unknown
  _protocol: string
  _extensions: { [DEFLATE]?: Compression }
  readonly _receiver: Receiver
  readonly _sender: Sender
  setSocket(socket: Duplex, head: Uint8Array, limits: Limits): void
}

type WebSocketClass = new (address: null, protocols: undefined, options: object) => WebSocketInside

export const OPEN = 1
const NOTHING = Buffer.alloc(0)

function limitsOf({ options }: ServerInside): Limits {
  const { allowSynchronousEvents, maxBufferedChunks, maxFragments, maxPayload, skipUTF8Validation } = options
  return { allowSynchronousEvents, maxBufferedChunks, maxFragments, maxPayload, skipUTF8Validation } as Limits
}

/** Returns the class of permessage-deflate, which a WebSocketServer makes for a client that offers it. */
function compressionClass(wss: ServerInside, handleUpgrade: ServerInside['handleUpgrade']): CompressionClass {
  let found: CompressionClass | undefined
  const standIn = Object.create(wss, {
    options: { value: { ...wss.options, perMessageDeflate: {}, verifyClient: null } },
    shouldHandle: { value: () => true },
    completeUpgrade: {
      value: (extensions: { [DEFLATE]?: object }) => {
        found = extensions[DEFLATE]?.constructor as CompressionClass | undefined
      },
    },
  }) as ServerInside
  const headers = {
    upgrade: 'websocket',
    'sec-websocket-key': Buffer.alloc(16).toString('base64'),
    'sec-websocket-version': '13',
    'sec-websocket-extensions': DEFLATE,
  }
  const socket = new Duplex()
  handleUpgrade.call(
    standIn,
    { method: 'GET', url: '/', headers, socket } as unknown as http.IncomingMessage,
    socket,
    NOTHING,
    () => {},
  )
  if (found === undefined) throw new Error(`no class of ${DEFLATE}`)
  return found
}

function newCompression(Class: CompressionClass, given: object, maxPayload = 0): Compression {
  return new Class({ ...given, isServer: true, maxPayload }, true, maxPayload)
}

/** Returns the extensions of a connection except permessage-deflate. */
export function otherExtensions(ws: WebSocketInside): string[] {
  return Object.keys(ws._extensions).filter(name => name !== DEFLATE)
}

/**
 * The compressed messages that a client sends. Inflates each message at its end: the inflater is then always between two messages, where its window can be
 * handed over.
 */
export class Inflation {
  readonly params: DeflateParams
  readonly #compression: Compression
  /** The frames of the unfinished message. */
  readonly frames: Buffer[] = []
  /** The length of the text to which the client may refer. */
  #known: number
  /** The text before this process's first message. */
  #before: Buffer | null

  static of(ws: WebSocketInside, window: Buffer | null = null): Inflation | null {
    const compression = ws._extensions[DEFLATE]
    return compression === undefined ? null : new Inflation(compression, window)
  }

  private constructor(compression: Compression, window: Buffer | null) {
    this.#compression = compression
    this.params = compression.params
    this.#before = window
    this.#known = window?.length ?? 0
    const { decompress } = compression
    compression.decompress = (data, fin, done) => {
      if (!fin) {
        this.frames.push(data)
        // `ws` expects a later call.
        queueMicrotask(() => done(null, NOTHING))
        return
      }
      const whole = this.frames.length === 0 ? data : Buffer.concat([...this.frames.splice(0), data])
      decompress.call(compression, whole, true, (error, text) => {
        if (!error && text !== undefined) this.#inflated(text.length)
        done(error, text)
      })
    }
  }

  #inflated(length: number): void {
    if (this.#before !== null) {
      this.#before = null
      setWindow(this.#compression, null)
    }
    // The client has ended its stream of deflate, and starts with an empty window.
    this.#known = this.#compression._inflate === null ? 0 : Math.min(this.#known + length, 32_768)
  }

  /** Returns the text to which the client's next message may refer. No message may be in work, and none can be inflated afterwards. */
  takeWindow(): Buffer {
    if (this.params.client_no_context_takeover) return NOTHING
    if (this.#before !== null) return this.#before
    const { _inflate: inflate } = this.#compression
    const most = 1 << (this.params.client_max_window_bits ?? 15)
    return inflate === null ? NOTHING : inflateWindow(inflate, Math.min(this.#known, most))
  }
}

function setWindow({ _options }: Compression, window: Buffer | null): void {
  const { dictionary: _, ...others } = (_options.zlibInflateOptions ?? {}) as { dictionary?: Buffer }
  _options.zlibInflateOptions = window === null ? others : { ...others, dictionary: window }
}

/** A frame of a client, not masked: the mask is 0. */
function frame(first: number, length: number, mask: Uint8Array = Buffer.alloc(4)): Buffer {
  const bytes = length < 126 ? 2 : length < 65_536 ? 4 : 10
  const head = Buffer.alloc(bytes)
  head[0] = first
  head[1] = 0x80 | (bytes === 2 ? length : bytes === 4 ? 126 : 127)
  if (bytes === 4) head.writeUInt16BE(length, 2)
  else if (bytes === 10) head.writeBigUInt64BE(BigInt(length), 2)
  return Buffer.concat([head, mask])
}

/** Returns the frames of the unfinished message that are complete. */
function completeFrames(receiver: Receiver, inflation: Inflation | null): readonly Uint8Array[] {
  const { _fragmented, _compressed, _fragments, _numFragments = 0, _state, _opcode } = receiver
  if (_fragmented === 0) return []
  const frames = [...(_compressed ? (inflation?.frames ?? []) : _fragments)]
  // `ws` does not keep empty frames, but counts them.
  while (frames.length < _numFragments) frames.push(NOTHING)
  const readsData = _state !== GET_INFO && _opcode < 8
  return frames.length === 0 && !readsData ? [NOTHING] : frames
}

/** Returns the first bytes of the frame that is being read, as far as they were parsed. */
function frameStart(receiver: Receiver, continues: boolean): Buffer {
  const { _state, _fin, _opcode, _compressed, _payloadLength, _mask } = receiver
  if (_state === GET_INFO) return NOTHING
  const kind = _opcode >= 8 ? _opcode : continues ? 0 : _opcode | (_compressed ? 0x40 : 0)
  const first = kind | (_fin ? 0x80 : 0)
  if (_state === GET_LENGTH_16 || _state === GET_LENGTH_64) return Buffer.of(first, 0x80 | _payloadLength)
  return frame(first, _payloadLength, _state === GET_DATA ? _mask : NOTHING)
}

/** Returns the bytes from which another receiver gets into the same position. `unread`: the bytes that were not passed to this receiver. */
function receivedBytes(receiver: Receiver, inflation: Inflation | null, unread: Buffer): Buffer {
  const frames = completeFrames(receiver, inflation)
  const kind = receiver._fragmented | (receiver._compressed ? 0x40 : 0)
  const waiting = (receiver as unknown as WithWrites)._writableState.getBuffer()
  return Buffer.concat([
    ...frames.flatMap((data, i) => [frame(i === 0 ? kind : 0, data.length), data]),
    frameStart(receiver, frames.length > 0),
    ...receiver._buffers,
    ...waiting.map(({ chunk }) => chunk),
    unread,
  ])
}

interface WithWrites {
  readonly _writableState: { readonly needDrain: boolean; getBuffer(): { readonly chunk: Buffer }[] }
}

export interface QueuedFrame {
  readonly opcode: number
  readonly data: Uint8Array
  readonly fin: boolean
  readonly compress: boolean
}

function isBlob(data: QueuedCall[1]): data is Blob {
  return typeof data !== 'string' && !(data instanceof Uint8Array)
}

/** A position between two frames, in both directions. */
interface Position {
  readonly received: Buffer
  readonly queued: QueuedFrame[]
  readonly continues: boolean
  readonly compress: boolean
}

function receivesNothing({ _receiver: receiver }: WebSocketInside): boolean {
  return !receiver._loop && receiver._errored !== true && receiver._state <= GET_DATA
}

/** Whether nothing of a WebSocket that is not held is being compressed or inflated. */
export function isAtRest(ws: WebSocketInside): boolean {
  return ws._sender._state === AT_REST && receivesNothing(ws)
}

/** Holds a WebSocket between two frames in each direction: messages that the application sends wait, and none is delivered. */
export class Hold {
  readonly #ws: WebSocketInside
  readonly #socket: net.Socket
  #sending: boolean
  /** Continues to parse. */
  #parse: Callback | null = null

  /** `rested`: called when nothing may be compressed or inflated any more. */
  constructor(ws: WebSocketInside, socket: net.Socket, rested: () => void) {
    this.#ws = ws
    this.#socket = socket
    const { _receiver: receiver, _sender: sender } = ws
    socket.pause()
    receiver.startLoop = done => {
      this.#parse = done
      rested()
    }
    this.#sending = sender._state !== AT_REST
    sender._state ||= HELD
    sender.dequeue = () => {
      sender._state = HELD
      this.#sending = false
      rested()
    }
  }

  /** Nothing is being compressed or inflated, and the frames that wait are known. */
  get isAtRest(): boolean {
    return (
      !this.#sending && receivesNothing(this.#ws) && !this.#ws._sender._queue.some(([, data]) => isBlob(data))
    )
  }

  /** About the size of {@link position}. */
  get bytes(): number {
    const { _receiver: receiver, _sender: sender } = this.#ws
    const queued = sender._queue.reduce((sum, [, data]) => sum + (isBlob(data) ? 0 : data.length), 0)
    const fragments = receiver._fragments.reduce((sum, { length }) => sum + length, 0)
    const inflating = this.#inflating.reduce((sum, { length }) => sum + length, 0)
    return queued + fragments + inflating + receiver._bufferedBytes + receiver.writableLength
  }

  get #inflating(): readonly Buffer[] {
    return inflations.get(this.#ws)?.frames ?? []
  }

  position(unread: Buffer): Position {
    const { _receiver: receiver, _sender: sender } = this.#ws
    const data = sender._queue.find(([, , , { opcode }]) => opcode < 8)
    return {
      received: receivedBytes(receiver, inflations.get(this.#ws) ?? null, unread),
      queued: sender._queue.map(([, bytes, compress, { opcode, fin }]) => ({
        opcode,
        data: typeof bytes === 'string' ? Buffer.from(bytes) : (bytes as Uint8Array),
        fin,
        compress,
      })),
      continues: data === undefined ? !sender._firstFragment : data[3].opcode === 0,
      compress: data === undefined ? sender._compress : data[2],
    }
  }

  /** Continues. */
  release(): void {
    const { _receiver: receiver, _sender: sender } = this.#ws
    Reflect.deleteProperty(receiver, 'startLoop')
    Reflect.deleteProperty(sender, 'dequeue')
    if (!this.#sending) {
      sender._state = AT_REST
      sender.dequeue()
    }
    const parse = this.#parse
    this.#parse = null
    if (parse !== null) receiver.startLoop(parse)
    const { needDrain } = (receiver as unknown as WithWrites)._writableState
    if (!this.#ws.isPaused && !needDrain) this.#socket.resume()
  }

  /** Another process has this position: lets the WebSocket close without a message, and reports its waiting messages as sent. `own`: the server's listeners of 'close'. */
  abandon(own: readonly (() => void)[]): void {
    const ws = this.#ws
    const { _receiver: receiver, _sender: sender } = ws
    ws.removeAllListeners()
    for (const listener of own) ws.on('close', listener)
    ws.on('error', () => {})
    const skip = (done: Callback) => done()
    receiver.startLoop = skip
    receiver._write = (_chunk, _encoding, done) => done()
    receiver._buffers = []
    const sent = sender._queue.splice(0)
    process.nextTick(() => {
      for (const [, , , , done] of sent) done?.()
    })
    this.#parse?.()
    this.#parse = null
  }
}

const inflations = new WeakMap<WebSocketInside, Inflation>()

/** Observes a WebSocket that its server has just opened. */
export function follow(ws: WebSocketInside): void {
  const inflation = Inflation.of(ws)
  if (inflation !== null) inflations.set(ws, inflation)
}

export function inflationOf(ws: WebSocketInside): Inflation | null {
  return inflations.get(ws) ?? null
}

export interface OpenFacts {
  readonly subprotocol: string
  readonly deflate: { readonly params: DeflateParams; readonly window: Buffer } | null
  readonly received: Buffer
  readonly queued: readonly QueuedFrame[]
  readonly continues: boolean
  readonly compress: boolean
}

/**
 * Opens a WebSocket as a WebSocketServer does after the handshake. Until {@link Hold.release} nothing is read or written. Returns it with its hold.
 */
export function openWebSocket(
  wss: ServerInside,
  handleUpgrade: ServerInside['handleUpgrade'],
  socket: net.Socket,
  facts: OpenFacts,
): { ws: WebSocketInside; hold: Hold; own: readonly (() => void)[] } {
  const { options } = wss
  const ws = new options.WebSocket(null, undefined, options)
  ws._protocol = facts.subprotocol
  if (facts.deflate !== null) {
    const { params, window } = facts.deflate
    const given = typeof options.perMessageDeflate === 'object' ? options.perMessageDeflate : {}
    const compression = newCompression(compressionClass(wss, handleUpgrade), given, options.maxPayload)
    compression.params = params
    if (window.length > 0) setWindow(compression, window)
    ws._extensions = { [DEFLATE]: compression }
    inflations.set(ws, Inflation.of(ws, window.length > 0 ? window : null)!)
  }
  ws.setSocket(socket, facts.received, limitsOf(wss))
  const hold = new Hold(ws, socket, () => {})
  ws._sender._firstFragment = !facts.continues
  ws._sender._compress = facts.compress
  for (const { opcode, data, fin, compress } of facts.queued) {
    if (opcode === 9) ws.ping(data)
    else if (opcode === 10) ws.pong(data)
    else ws.send(data, { binary: opcode === 2, compress, fin })
  }
  const closed = () => {
    wss.clients?.delete(ws)
    if (wss._shouldEmitClose !== true || wss.clients?.size !== 0) return
    process.nextTick(() => {
      wss._state = SERVER_CLOSED
      wss.emit('close')
    })
  }
  wss.clients?.add(ws)
  ws.on('close', closed)
  return { ws, hold, own: [closed] }
}

/** Tests the internals with a WebSocket of the installed release. Returns the first that is missing, or null. */
export function lacking(wss: ServerInside, handleUpgrade: ServerInside['handleUpgrade']): string | null {
  const checks: readonly (readonly [string, () => boolean])[] = [
    [
      'permessage-deflate with decompress() and _options',
      () => compresses(compressionClass(wss, handleUpgrade)),
    ],
    ['WebSocketServer._shouldEmitClose', () => wss.clients === undefined || '_shouldEmitClose' in wss],
    ['setSocket() and a receiver that parses as expected', () => parses(wss)],
    ['a sender with _queue and dequeue()', () => queues(wss)],
  ]
  for (const [name, works] of checks) {
    try {
      if (!works()) return name
    } catch {
      return name
    }
  }
  return INFLATE_WINDOW.works ? null : INFLATE_WINDOW.name
}

function compresses(Compression: CompressionClass): boolean {
  const made = newCompression(Compression, {}, 1)
  if (!made._isServer || made._maxPayload !== 1) return false
  return typeof made.decompress === 'function' && made._inflate === null && typeof made._options === 'object'
}

/** A WebSocket of the release's own class, without those that the application derives from it, over a stream that keeps what is written. */
function scratch(wss: ServerInside): { ws: WebSocketInside; socket: Duplex; written: Buffer[] } {
  let Class = wss.options.WebSocket
  for (
    let parent = Class;
    typeof parent?.prototype?.setSocket === 'function';
    parent = Object.getPrototypeOf(parent)
  )
    Class = parent
  const written: Buffer[] = []
  const socket = new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      written.push(chunk)
      done()
    },
  })
  // Releases before 8.9 expect these methods.
  Object.assign(socket, { setTimeout() {}, setNoDelay() {} })
  const ws = new Class(null, undefined, { ...limitsOf(wss) })
  ws.setSocket(socket, NOTHING, { ...limitsOf(wss), maxPayload: 0, allowSynchronousEvents: true })
  return { ws, socket, written }
}

const HELLO = Buffer.from('hello')

/** Stops within each part of a frame, and compares the bytes for another receiver with the original ones. */
function parses(wss: ServerInside): boolean {
  const long = Buffer.alloc(300, 'x')
  const whole = Buffer.concat([
    frame(0x01, HELLO.length, Buffer.of(0, 0, 0, 0)),
    HELLO,
    frame(0x89, 2),
    Buffer.from('hi'),
    frame(0x80, long.length),
    long,
  ])
  // The frame of the ping is delivered before the end of the message.
  const afterPing = Buffer.concat([whole.subarray(0, 11), whole.subarray(19)])
  for (let at = 0; at < whole.length - long.length + 1; at++) {
    const { ws, socket } = scratch(wss)
    const { _receiver: receiver } = ws
    receiver.write(whole.subarray(0, at))
    const got = receivedBytes(receiver, null, whole.subarray(at))
    socket.destroy()
    if (!got.equals(at < 19 ? whole : afterPing)) return false
  }
  return true
}

function queues(wss: ServerInside): boolean {
  const { ws, socket, written } = scratch(wss)
  const { _sender: sender } = ws
  if (sender._state !== AT_REST || !sender._firstFragment || sender._compress) return false
  sender._state = HELD
  ws.send(HELLO, { binary: false, compress: false, fin: false })
  const [first] = sender._queue
  const knows = first?.[1] === HELLO && first[2] === false && first[3].opcode === 1 && !first[3].fin
  sender._state = AT_REST
  sender.dequeue()
  socket.destroy()
  return (
    knows && !sender._firstFragment && Buffer.concat(written).equals(Buffer.concat([Buffer.of(1, 5), HELLO]))
  )
}
