import type { FdbError } from '../../errors.js'
import type { fdbroker } from '../../proto/wire.js'
import type { Link } from '../../protocol/link.js'
import { FORWARDS_WRITES } from '../../protocol/versions.js'
import type { Forwarding } from '../../state/forwarding.js'
import type { StateLog } from '../../state/state-log.js'
import { WriteCourier } from './courier.js'
import { unpackAnswer } from './receiver.js'

/** Whoever serves and says nothing of changes by then is of a version that takes none. */
const WELCOME_MS = 1_000

/**
 * Forwards the changes of a process that does not write, over the connection that it has to whoever does: while it stands by and drains,
 * or as long as it follows the state of another service.
 */
export class WriteForwarder {
  readonly #log: StateLog
  readonly #timeoutMs: number
  /** Connects anew: perhaps to another. */
  readonly #reconnect: () => void
  /** Whoever says nothing of changes takes none. */
  readonly #impatient: boolean
  #forwarding: Forwarding | null = null
  #link: Link | null = null
  /** The link leads to one that takes changes. */
  #taken = false
  #patience: NodeJS.Timeout | undefined

  constructor(log: StateLog, timeoutMs: number, reconnect: () => void, { impatient = true } = {}) {
    this.#log = log
    this.#timeoutMs = timeoutMs
    this.#reconnect = reconnect
    this.#impatient = impatient
  }

  /** Changes that were made, or will be, are forwarded. `refusal`: what they are told where that cannot be. Idempotent. */
  begin(refusal: FdbError): void {
    if (this.#forwarding !== null) return
    this.#forwarding = this.#log.forwardWriting({ timeoutMs: this.#timeoutMs, refusal })
    this.#useLink()
  }

  /** There is nobody who takes changes. */
  refuse(): void {
    this.#forwarding?.refuse()
  }

  get active(): boolean {
    return this.#forwarding !== null
  }

  /** This process writes again, or has left. */
  end(): void {
    this.#forwarding = null
    clearTimeout(this.#patience)
  }

  connected(link: Link): void {
    this.#link = link
    this.#taken = false
    clearTimeout(this.#patience)
    if (!this.#impatient) return
    this.#patience = setTimeout(() => this.refuse(), WELCOME_MS)
    this.#patience.unref()
  }

  welcomed(link: Link, { capabilities }: fdbroker.wire.Welcome.$Properties): void {
    if (link !== this.#link || !capabilities?.includes(FORWARDS_WRITES)) return
    clearTimeout(this.#patience)
    this.#taken = true
    this.#useLink()
  }

  written(link: Link, written: fdbroker.wire.Written.$Properties): void {
    if (link !== this.#link) return
    const answer = unpackAnswer(written)
    this.#forwarding?.answered(written.number ?? 0, answer)
    if (answer.outcome === 'again') this.#reconnect()
  }

  lost(link: Link): void {
    if (link !== this.#link) return
    this.#link = null
    this.#taken = false
    clearTimeout(this.#patience)
    this.#forwarding?.disconnect()
  }

  #useLink(): void {
    const link = this.#link
    if (link === null || !this.#taken) return
    const failed = () => {
      if (link === this.#link) this.#reconnect()
    }
    this.#forwarding?.connect(new WriteCourier(link, failed))
  }
}
