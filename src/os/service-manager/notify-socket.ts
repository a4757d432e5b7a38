import {
  closeAll,
  connectToDatagram,
  type OwnedFd,
  type PeerCredentials,
  type Poll,
  READABLE,
  receiveDatagram,
  sendMessage,
  sleepSync,
  watch,
} from '../../kernel/index.js'

/** The fields of one message, in the order in which they are sent. */
export type NotifyFields = Readonly<Record<string, string | number | bigint>>

/** Delay before the next attempt if the socket's queue in the kernel, which is short, is full. */
const NOTIFY_RETRY_MS = 10
/** Attempts, 1 ms apart, for which a call blocks if the queue is full and a message with a descriptor waits. */
const MOST_TRIES = 100
/** Maximum number of waiting messages. The oldest one is dropped if the manager does not read. */
const MOST_PENDING = 1_000

interface PendingMessage {
  readonly text: Buffer
  /** A duplicate, owned by the queue. */
  readonly fd: OwnedFd | null
}

/** Sends messages to a service manager's socket. `NOTIFY_SOCKET` names it: a path or, after `@`, an abstract name. */
export class NotifySocket {
  readonly #name: string
  readonly #abstract: boolean
  readonly #failed: (error: unknown) => void
  readonly #pending: PendingMessage[] = []
  #timer: NodeJS.Timeout | undefined

  /** Returns null if there is no service manager, or if its socket is not a Unix socket. `failed` is called when a message is lost. */
  static of(
    { NOTIFY_SOCKET: where = '' }: Readonly<NodeJS.ProcessEnv>,
    failed: (error: unknown) => void,
  ): NotifySocket | null {
    return /^[/@]./.test(where) ? new NotifySocket(where, failed) : null
  }

  private constructor(where: string, failed: (error: unknown) => void) {
    this.#abstract = where.startsWith('@')
    this.#name = this.#abstract ? where.slice(1) : where
    this.#failed = failed
  }

  /** Sends a message after those of earlier calls; at once if the queue has room. Borrows the descriptor. Never throws. */
  send(words: NotifyFields, fd?: OwnedFd): void {
    const text = Object.entries(words).map(([name, value]) => `${name}=${oneLine(String(value))}`)
    try {
      this.#pending.push({ text: Buffer.from(text.join('\n')), fd: fd?.dup() ?? null })
    } catch (error) {
      this.#failed(error)
      return
    }
    if (this.#pending.length > MOST_PENDING) this.#pending.shift()?.fd?.close()
    if (this.#timer === undefined) this.#send()
  }

  get #hasDescriptor(): boolean {
    return this.#pending.some(({ fd }) => fd !== null)
  }

  /** Sends the waiting messages. Connects each time, because the manager may have been restarted. */
  #send(): void {
    this.#timer = undefined
    try {
      using socket = connectToDatagram(this.#name, this.#abstract, 'notify socket')
      for (let next = this.#pending[0]; next !== undefined; next = this.#pending[0]) {
        const { text, fd } = next
        let sent = sendMessage(socket, text, 0, text.length, fd === null ? [] : [fd])
        // Blocks if a descriptor waits: the manager, which reads quickly, must have stored it before this process uses it.
        for (let tries = 0; sent < 0 && this.#hasDescriptor && tries < MOST_TRIES; tries++) {
          sleepSync(1)
          sent = sendMessage(socket, text, 0, text.length, fd === null ? [] : [fd])
        }
        if (sent < 0) {
          this.#timer = setTimeout(() => this.#send(), NOTIFY_RETRY_MS).unref()
          return
        }
        this.#pending.shift()
        fd?.close()
      }
    } catch (error) {
      for (const { fd } of this.#pending.splice(0)) fd?.close()
      this.#failed(error)
    }
  }
}

function oneLine(text: string): string {
  return text.replace(/[\r\n]+/g, ' ')
}

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
