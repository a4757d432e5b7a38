import { FdbError } from '../../errors.js'
import type { Peer } from '../../holder/peer.js'
import type { Link } from '../../wire/link.js'

/**
 * The members of other services that have the state of this one: they are told when it has grown. The member that writes says so where
 * it was asked to; it is asked while anybody follows.
 */
export class Followers {
  readonly #links = new Set<Link>()
  readonly #writer: () => Peer | undefined
  /** Over it the member that writes was asked. */
  #asked: Link | null = null

  constructor(writer: () => Peer | undefined) {
    this.#writer = writer
  }

  get size(): number {
    return this.#links.size
  }

  add(link: Link): void {
    this.#links.add(link)
    this.look()
  }

  remove(link: Link): void {
    if (this.#links.delete(link)) this.look()
  }

  /** Another member may write by now, or over another link. */
  look(): void {
    const link = this.size > 0 ? (this.#writer()?.link ?? null) : null
    if (link === this.#asked) return
    if (this.size === 0) this.#asked?.tell({ tellAppended: { wanted: false } })
    this.#asked = link
    link?.tell({ tellAppended: { wanted: true } })
  }

  /** The member that writes has appended. */
  appended(peer: Peer): void {
    // Another daemon had asked it.
    if (this.size === 0) peer.link.tell({ tellAppended: { wanted: false } })
    for (const link of this.#links) link.tell({ appended: {} })
  }
}

/** Told to whoever would follow a service that there is not, or not yet: it tries again. */
export function notThere(service: string): FdbError {
  return new FdbError(
    'ERR_FDB_BUSY',
    `nobody has come to serve "${service}" here: there is no state to follow yet`,
    {
      retryable: true,
    },
  )
}
