import type { Link, WireBody } from '../../protocol/link.js'
import type { ForwardedWrite } from '../../state/forwarded.js'
import type { Courier } from '../../state/forwarding.js'

/** Bytes of one message; a single part may have more. */
const PIECE_BYTES = 256 * 1024

/** Sends changes over a link, those that are large in several messages: one behind the other, as fast as the peer takes them. */
export class WriteCourier implements Courier {
  readonly #link: Link
  #sent: Promise<void> = Promise.resolve()

  constructor(link: Link) {
    this.#link = link
  }

  send(number: number, write: ForwardedWrite): void {
    this.#sent = this.#sent.then(async () => {
      try {
        for (const body of messagesOf(number, write)) await this.#link.send(body)
      } catch {
        // The link has ended, which is told: it is sent again over the next.
      }
    })
  }
}

function* messagesOf(
  number: number,
  { request, parts, reads, durable = false }: ForwardedWrite,
): Generator<WireBody> {
  let from = 0
  do {
    let end = from
    for (let bytes = 0; end < parts.length && (end === from || bytes < PIECE_BYTES); end++)
      bytes += parts[end]!.length
    const more = end < parts.length
    const last = more ? {} : { reads: [...reads], durable }
    yield { write: { number, request, parts: parts.slice(from, end), more, ...last } }
    from = end
  } while (from < parts.length)
}
