import type { ForwardedWrite } from '../../state/forwarded.js'
import type { Courier } from '../../state/forwarding.js'
import type { Link, WireBody } from '../../wire/link.js'

/** Bytes of one message; a single part may have more. */
const PIECE_BYTES = 256 * 1024

/** Sends changes over a link, those that are large in several messages: one behind the other, as fast as the peer takes them. */
export class WriteCourier implements Courier {
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
