import type { Socket } from 'node:dgram'
import { nodeDgram } from '../../base/lazy.js'
import { inspected } from '../../checks/place.js'
import { FdbError } from '../../errors.js'
import { bindOver, hasAddress, inspectOne, type OwnedFd, setSocketOption } from '../../kernel/index.js'
import {
  DATAGRAM_READING,
  isOfType,
  isOpenDatagramSocket,
  leaveDatagrams,
  readDatagrams,
} from '../../node/datagram-reading.js'
import { missingInternals } from '../../node/missing-internals.js'
import { AttachedDatagrams, type DatagramReader, dupFor } from './attached-datagrams.js'
import { type DrainCounts, sumCounts } from './forced-closes.js'

const given = new WeakSet<Socket>()

/** A process that leaves waits so long after its last datagram, because its application may answer late. */
const LATE_ANSWERS_MS = 1_000

/**
 * An application's `dgram.Socket` over the socket of a listener, which can send at any time, and reads while this process serves. The constructor binds
 * the socket: Node would bind a socket that sends to a random port.
 */
export class DatagramServer implements DatagramReader {
  readonly scheme = 'udp'
  readonly connections = 0
  readonly #socket: Socket
  readonly #reuseAddr: boolean
  #started = false
  /** When the last datagram came, in milliseconds of `performance.now()`. */
  #heardAt = Number.NEGATIVE_INFINITY
  /** Ends the wait for late answers. */
  #answered: (() => void) | null = null

  /**
   * `reuseAddr`: the option of the listener. Borrows the descriptor. Throws ERR_FDB_NOT_A_SERVER, ERR_FDB_SERVER_TWICE, ERR_FDB_SERVER_LISTENS,
   * ERR_FDB_NODE, ERR_FDB_NO_DESCRIPTORS, or the error of Node that cannot bind the socket.
   */
  constructor(socket: unknown, fd: OwnedFd, reuseAddr: boolean) {
    if (!(socket instanceof nodeDgram().Socket))
      throw new FdbError(
        'ERR_FDB_NOT_A_SERVER',
        `${inspected(socket)} cannot read datagrams: give a socket of node:dgram, or bind it to listener.borrow()`,
      )
    const [missing] = missingInternals([DATAGRAM_READING])
    if (missing !== undefined) throw missing
    if (given.has(socket))
      throw new FdbError(
        'ERR_FDB_SERVER_TWICE',
        'this socket was already passed to serve(): give each listener its own socket',
      )
    if (hasAddress(socket))
      throw new FdbError(
        'ERR_FDB_SERVER_LISTENS',
        'this socket has an address already, so that it could not read from the listener: do not call its bind(), the library does',
      )
    const type = inspectOne(fd).family === 'inet6' ? 'udp6' : 'udp4'
    if (!isOfType(socket, type))
      throw new FdbError(
        'ERR_FDB_NOT_A_SERVER',
        `this socket is not for the addresses of the listener, and could answer no client: give createSocket('${type}')`,
      )
    // For the datagrams that wait while one version reads no more, and the next one not yet. Node sets an application's own size after this.
    setSocketOption(fd, 'longQueue', true)
    bindOver(socket, dupFor(fd))
    leaveDatagrams(socket)
    given.add(socket)
    socket.on('message', () => {
      this.#heardAt = performance.now()
    })
    this.#socket = socket
    this.#reuseAddr = reuseAddr
  }

  get isClosed(): boolean {
    return !isOpenDatagramSocket(this.#socket)
  }

  get active(): boolean {
    return this.#started && !this.isClosed
  }

  start(fd: OwnedFd): void {
    // An earlier version may have left the option that Node sets.
    if (!this.#started) setSocketOption(fd, 'reuseAddr', this.#reuseAddr)
    fd.close()
    this.#started = true
    readDatagrams(this.#socket)
  }

  stop(): void {
    leaveDatagrams(this.#socket)
  }

  readLast(): void {
    if (!this.#started) return
    this.#heardAt = performance.now()
    readDatagrams(this.#socket)
  }

  finish(): void {}

  announce(): void {}

  async emptied(): Promise<void> {
    const leftMs = this.#heardAt + LATE_ANSWERS_MS - performance.now()
    if (leftMs <= 0 || !this.active) return
    await new Promise<void>(resolve => {
      const timer = setTimeout(resolve, leftMs)
      this.#answered = () => {
        clearTimeout(timer)
        resolve()
      }
      this.#socket.once('close', this.#answered)
    })
  }

  cut(): DrainCounts {
    this.#answered?.()
    return sumCounts([])
  }

  close(): void {
    this.#answered?.()
    if (!this.isClosed) this.#socket.close()
  }
}

/** Throws as the constructor of {@link DatagramServer}, and ERR_FDB_OPTION for options. Borrows the descriptor. */
export function attachDatagrams(
  socket: unknown,
  options: object | undefined,
  fd: OwnedFd,
  { reuseAddr }: { readonly reuseAddr: boolean },
): AttachedDatagrams {
  if (options !== undefined)
    throw new FdbError('ERR_FDB_OPTION', 'serve() of a UDP listener has no options: leave them out')
  const server = new DatagramServer(socket, fd, reuseAddr)
  return new AttachedDatagrams(server, server)
}
