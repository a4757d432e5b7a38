import type { FdbError } from '../../errors.js'
import type { fdbroker } from '../../proto/wire.js'
import type { ForwardQueue, WriteSender } from '../../state/forward-queue.js'
import type { ForwardedWrite } from '../../state/forwarded-write.js'
import type { StateLog } from '../../state/state-log.js'
import { FORWARDS_WRITES, type Link, type WireBody } from '../../wire/link.js'
import { unpackAnswer } from './receiver.js'

/**
 * Forwards the changes of a process that does not write, over its connection to the process that does: while it stands by, drains, or
 * follows the state of another service. A change waits for its own timeout; a process that answers late is slow, and takes changes still.
 */
export class WriteRedirect {
  readonly #log: StateLog
  readonly #timeoutMs: number
  /** Connects again, perhaps to another process. */
  readonly #reconnect: () => void
  #forwarding: ForwardQueue | null = null
  #link: Link | null = null
  /** The link leads to one that takes changes. */
  #taken = false

  constructor(log: StateLog, timeoutMs: number, reconnect: () => void) {
    this.#log = log
    this.#timeoutMs = timeoutMs
    this.#reconnect = reconnect
  }

  /** Changes that were made, or will be, are forwarded. `refusal`: what they are told where that cannot be. Idempotent. */
  start(refusal: FdbError): void {
    if (this.#forwarding !== null) return
    this.#forwarding = this.#log.forwardWriting({ timeoutMs: this.#timeoutMs, refusal })
    this.#useLink()
  }

  /** No process takes changes. */
  refuse(): void {
    this.#forwarding?.refuse()
  }

  get active(): boolean {
    return this.#forwarding !== null
  }

  /** This process writes again, or has left. */
  end(): void {
    this.#forwarding = null
  }

  connected(link: Link): void {
    this.#link = link
    this.#taken = false
  }

  welcomed(link: Link, { capabilities }: fdbroker.wire.Welcome.$Properties): void {
    if (link !== this.#link || !capabilities?.includes(FORWARDS_WRITES)) return
    this.#taken = true
    this.#useLink()
  }

  written(link: Link, written: fdbroker.wire.Written.$Properties): void {
    if (link !== this.#link) return
    const answer = unpackAnswer(written)
    this.#forwarding?.onAnswer(written.number ?? 0, answer)
    if (answer.outcome === 'again') this.#reconnect()
  }

  lost(link: Link): void {
    if (link !== this.#link) return
    this.#link = null
    this.#taken = false
    this.#forwarding?.disconnect()
  }

  #useLink(): void {
    const link = this.#link
    if (link === null || !this.#taken) return
    const failed = () => {
      if (link === this.#link) this.#reconnect()
    }
    this.#forwarding?.connect(new LinkWriteSender(link, failed))
  }
}

/** Bytes of one message; a single part may have more. */
const PIECE_BYTES = 256 * 1024

/** Sends changes over a link, those that are large in several messages: one behind the other, as fast as the peer takes them. */
export class LinkWriteSender implements WriteSender {
  readonly #link: Link
  readonly #failed: () => void
  #sent: Promise<void> = Promise.resolve()

  /** `failed`: the link is there, and does not take what is sent. */
  constructor(link: Link, failed: () => void) {
    this.#link = link
    this.#failed = failed
  }

  send(number: number, write: ForwardedWrite): void {
    this.#sent = this.#sent.then(async () => {
      try {
        for (const body of messagesOf(number, write)) await this.#link.send(body)
      } catch {
        // It is sent again over the next link. The end of this one is told.
        if (this.#link.open) this.#failed()
      }
    })
  }
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
    // Beside a large part there may be no room for what was read.
    more = end < parts.length || (bytes > PIECE_BYTES && reads.length > 0)
    const last = more ? {} : { reads: [...reads], durable }
    yield { write: { number, request, parts: parts.slice(from, end), more, ...last } }
    from = end
  } while (more)
}
