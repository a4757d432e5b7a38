import type { Socket } from 'node:dgram'
import { nodeDgram } from '../../base/lazy.js'
import { inspected } from '../../checks/place.js'
import { FdbError } from '../../errors.js'
import { bindOver, type OwnedFd } from '../../kernel/index.js'
import {
  DATAGRAM_READING,
  isBound,
  isOpenDatagramSocket,
  leaveDatagrams,
  readDatagrams,
} from '../../node/datagram-reading.js'
import { missingInternals } from '../../node/missing-internals.js'
import { AttachedDatagrams, type DatagramReader } from './attached-datagrams.js'
import { type DrainCounts, sumCounts } from './forced-closes.js'

const given = new WeakSet<Socket>()

/** A process that leaves waits so long after its last datagram, because its application may answer late. */
const LATE_ANSWERS_MS = 1_000

/** An application's `dgram.Socket`, which reads from the socket of a listener while this process serves. */
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

  /** `reuseAddr`: the option of the listener, which Node would change. Throws ERR_FDB_NOT_A_SERVER, ERR_FDB_SERVER_TWICE, ERR_FDB_SERVER_LISTENS or ERR_FDB_NODE. */
  constructor(socket: unknown, reuseAddr: boolean) {
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
    if (isBound(socket))
      throw new FdbError(
        'ERR_FDB_SERVER_LISTENS',
        'this socket has an address already, so that it could not read from the listener: do not call its bind(), the library does',
      )
    given.add(socket)
    socket.on('message', () => {
      this.#heardAt = performance.now()
    })
    this.#socket = socket
    this.#reuseAddr = reuseAddr
  }

  get active(): boolean {
    return this.#started && isOpenDatagramSocket(this.#socket)
  }

  start(fd: OwnedFd): void {
    if (this.#started) {
      fd.close()
      readDatagrams(this.#socket)
    } else bindOver(this.#socket, fd, this.#reuseAddr)
    this.#started = true
  }

  stop(): void {
    leaveDatagrams(this.#socket)
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
    if (isOpenDatagramSocket(this.#socket)) this.#socket.close()
  }
}

/** Throws as the constructor of {@link DatagramServer}, and ERR_FDB_OPTION for options. */
export function attachDatagrams(
  socket: unknown,
  options: object | undefined,
  { reuseAddr }: { readonly reuseAddr: boolean },
): AttachedDatagrams {
  if (options !== undefined)
    throw new FdbError('ERR_FDB_OPTION', 'serve() of a UDP listener has no options: leave them out')
  return new AttachedDatagrams(new DatagramServer(socket, reuseAddr))
}
