import {
  closeAll,
  type OwnedFd,
  type PeerCredentials,
  type Poll,
  READABLE,
  receiveDatagram,
  watch,
} from '../../kernel/index.js'

const LONGEST_BYTES = 65_536
const MESSAGES_PER_TURN = 64
/** While messages must wait in the socket, the receiver checks at this interval whether they still must. */
const WAIT_MS = 20

/** A message of sd_notify(3). */
export interface NotifyMessage {
  /** Of each name the last value. */
  readonly words: ReadonlyMap<string, string>
  /** The sender, as the kernel names it. */
  readonly from: PeerCredentials
  readonly truncated: boolean
  /** What stays in it is closed after the call. The sender of BARRIER=1 waits for that. */
  readonly fds: OwnedFd[]
}

export interface NotifyEvents {
  received(message: NotifyMessage): void
  /** True: messages wait in the socket. Absent: they never do. */
  mustWait?(): boolean
}

/** Receives messages of sd_notify(3) from a socket with the option `passCred`. Borrows the socket. */
export class NotifyReceiver {
  readonly #socket: OwnedFd
  readonly #events: NotifyEvents
  readonly #bytes = Buffer.alloc(LONGEST_BYTES)
  #poll: Poll | null
  #waiting: NodeJS.Timeout | undefined

  constructor(socket: OwnedFd, events: NotifyEvents) {
    this.#socket = socket
    this.#events = events
    this.#poll = watch(socket, () => this.#receive())
    this.#poll.start(READABLE)
  }

  /** Idempotent. */
  close(): void {
    clearTimeout(this.#waiting)
    this.#poll?.close()
    this.#poll = null
  }

  #receive(): void {
    for (let i = 0; i < MESSAGES_PER_TURN && this.#poll !== null; i++) {
      if (this.#events.mustWait?.()) {
        this.#poll.stop()
        this.#waiting = setTimeout(() => this.#poll?.start(READABLE), WAIT_MS).unref()
        return
      }
      const { bytes, from, truncated, fds } = receiveDatagram(this.#socket, this.#bytes)
      if (bytes < 0) return
      const given = fds ?? []
      try {
        const words = wordsOf(this.#bytes.toString('utf8', 0, bytes))
        this.#events.received({ words, from, truncated, fds: given })
      } finally {
        closeAll(given)
      }
    }
  }
}

/** Each line is an assignment. */
function wordsOf(text: string): Map<string, string> {
  return new Map(
    text.split('\n').map(line => {
      const at = line.indexOf('=')
      return [line.slice(0, at), line.slice(at + 1)] as const
    }),
  )
}
