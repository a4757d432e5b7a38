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

export interface NotifyMessage {
  /** The last value of each name. */
  readonly words: ReadonlyMap<string, string>
  readonly from: PeerCredentials
}

/** Receives messages of sd_notify(3). Then closes their descriptors: the sender of BARRIER=1 waits for that. Borrows the socket. */
export class NotifyReceiver {
  readonly #socket: OwnedFd
  readonly #received: (message: NotifyMessage) => void
  readonly #bytes = Buffer.alloc(LONGEST_BYTES)
  #poll: Poll | null

  constructor(socket: OwnedFd, received: (message: NotifyMessage) => void) {
    this.#socket = socket
    this.#received = received
    this.#poll = watch(socket, () => this.#receive())
    this.#poll.start(READABLE)
  }

  close(): void {
    this.#poll?.close()
    this.#poll = null
  }

  #receive(): void {
    for (let i = 0; i < MESSAGES_PER_TURN && this.#poll !== null; i++) {
      const { bytes, from, fds } = receiveDatagram(this.#socket, this.#bytes)
      if (bytes < 0) return
      try {
        const words = wordsOf(this.#bytes.toString('utf8', 0, bytes))
        this.#received({ words, from })
      } finally {
        closeAll(fds ?? [])
      }
    }
  }
}

function wordsOf(text: string): Map<string, string> {
  return new Map(
    text.split('\n').map(line => {
      const at = line.indexOf('=')
      return [line.slice(0, at), line.slice(at + 1)] as const
    }),
  )
}
