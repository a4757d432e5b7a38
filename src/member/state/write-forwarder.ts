import { InOrder } from '../../base/in-order.js'
import type { FdbError } from '../../errors.js'
import type { fdbroker } from '../../proto/wire.js'
import type { ForwardQueue, WriteSender } from '../../state/forward-queue.js'
import type { ForwardedWrite } from '../../state/forwarded-write.js'
import type { StateLog } from '../../state/state-log.js'
import { FORWARDS_WRITES, type Link, type WireBody } from '../../wire/link.js'
import { unpackAnswer } from './write-receiver.js'

/**
 * Forwards changes to the process that writes, if this process stands by, drains, or follows the state of another service. A change without
 * an answer fails after `timeoutMs`; the connection stays open.
 */
export class WriteForwarder {
  readonly #log: StateLog
  readonly #timeoutMs: number
  /** Connects again, because another process may write now. */
  readonly #reconnect: () => void
  #queue: ForwardQueue | null = null
  #link: Link | null = null
  #peerAccepts = false

  constructor(log: StateLog, timeoutMs: number, reconnect: () => void) {
    this.#log = log
    this.#timeoutMs = timeoutMs
    this.#reconnect = reconnect
  }

  /** Starts to forward queued and new changes. `refusal`: the error for changes that cannot be forwarded. Idempotent. */
  start(refusal: FdbError): void {
    if (this.#queue !== null) return
    this.#queue = this.#log.forwardWriting({ timeoutMs: this.#timeoutMs, refusal })
    this.#useLink()
  }

  /** Refuses all changes, because no process accepts them. */
  refuse(): void {
    this.#queue?.refuse()
  }

  get active(): boolean {
    return this.#queue !== null
  }

  /** Ends forwarding, because this process writes again or has left. */
  end(): void {
    this.#queue = null
  }

  onConnected(link: Link): void {
    this.#link = link
    this.#peerAccepts = false
  }

  onWelcome(link: Link, { capabilities }: fdbroker.wire.Welcome.$Properties): void {
    if (link !== this.#link || !capabilities?.includes(FORWARDS_WRITES)) return
    this.#peerAccepts = true
    this.#useLink()
  }

  onWritten(link: Link, written: fdbroker.wire.Written.$Properties): void {
    if (link !== this.#link) return
    const answer = unpackAnswer(written)
    this.#queue?.onAnswer(written.number ?? 0, answer)
    if (answer.outcome === 'again') this.#reconnect()
  }

  onLost(link: Link): void {
    if (link !== this.#link) return
    this.#link = null
    this.#peerAccepts = false
    this.#queue?.disconnect()
  }

  #useLink(): void {
    const link = this.#link
    if (link === null || !this.#peerAccepts) return
    const failed = () => {
      if (link === this.#link) this.#reconnect()
    }
    this.#queue?.connect(writeSenderOver(link, failed))
  }
}

/** A message gets parts until they have this many bytes together. */
const PIECE_BYTES = 256 * 1024

/** Returns a sender that sends changes over `link`, in order; a large change in several messages. Calls `failed` if sending fails on an open link. */
export function writeSenderOver(link: Link, failed: () => void): WriteSender {
  const order = new InOrder()
  const sendAll = async (number: number, write: ForwardedWrite) => {
    try {
      for (const body of messagesOf(number, write)) await link.send(body)
    } catch {
      // The queue sends the change again over the next link. An open link does not report an end, so this function must.
      if (link.open) failed()
    }
  }
  return { send: (number, write) => void order.run(() => sendAll(number, write)) }
}

function* messagesOf(
  number: number,
  { request, parts, reads, durable = false }: ForwardedWrite,
): Generator<WireBody> {
  let from = 0
  let more: boolean
  do {
    let end = from
    let bytes = 0
    for (; end < parts.length && (end === from || bytes < PIECE_BYTES); end++) bytes += parts[end]!.length
    // After a large part the reads get a message of their own.
    more = end < parts.length || (bytes > PIECE_BYTES && reads.length > 0)
    const last = more ? {} : { reads: [...reads], durable }
    yield { write: { number, request, parts: parts.slice(from, end), more, ...last } }
    from = end
  } while (more)
}
