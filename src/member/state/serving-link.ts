import { closeAll } from '../../kernel/index.js'
import type { BundleItem } from '../../wire/bundle.js'
import { Channel } from '../../wire/channel.js'
import { helloFor } from '../../wire/greeting.js'
import { FORWARDS_WRITES, Link, READS_SNAPSHOTS, type WireEnvelope } from '../../wire/link.js'
import type { Settings } from '../options/options.js'
import type { WriteForwarder } from './write-forwarder.js'

export interface ServingLinkDeps {
  readonly settings: Pick<Settings, 'logger' | 'service' | 'versions'> & { readonly control: string }
  /** Returns the facts of the next Hello. */
  readonly hello: () => ServingHello
  readonly everyMs: () => number
  readonly report: () => object
  readonly writes: WriteForwarder
  readonly events: ServingEvents
}

interface ServingHello {
  readonly intent: 'draining' | 'follow'
  readonly generation: number
  /** The highest epoch of the segments that this process has, so that it gets newer ones only. */
  readonly top: number
  /** The own service of a process that follows the state of another one. */
  readonly follower?: string
  /** The start time of the service whose segments this process has, in milliseconds since 1970. */
  readonly serviceStartedAt?: number
}

interface ServingEvents {
  /** Owns the items: new segments, or a move channel. */
  adopt(items: BundleItem[]): void
  connected?(): void
  /** Called when the peer has violated the protocol. The link then connects again. */
  broken?(error: unknown): void
  handle?(envelope: WireEnvelope): void
}

const LINK_RETRY_MS = 250
/** The delay before the link connects to the next process, which already accepts when the previous one closes its links. */
const RECONNECT_MS = 10

/**
 * Reports to the process that serves, over a connection to the control path. Used by a process that stands by or drains, so that `status`
 * shows all generations, and by a follower. Over this link it also asks for move channels, and gets new segments. Connects to the next
 * process if the one that serves is replaced.
 */
export class ServingLink {
  readonly #deps: ServingLinkDeps
  #link: Link | null = null
  #timer: NodeJS.Timeout | undefined
  #running = false
  #connectedAt = 0
  /** The number of starts, by which a connection of an earlier start is recognized. */
  #starts = 0
  /** How many attempts to connect have failed in a row. */
  #failures = 0

  constructor(deps: ServingLinkDeps) {
    this.#deps = deps
  }

  start(): void {
    if (this.#running) return
    this.#running = true
    this.#starts++
    void this.#connect()
  }

  /** Sends a last report and closes the link. */
  stop(): void {
    this.#running = false
    clearTimeout(this.#timer)
    const link = this.#link
    if (link === null) return
    this.#sendReport(link)
    this.#link = null
    link.close()
    this.#deps.writes.onLost(link)
  }

  askForMove(): void {
    this.#link?.post({ moveRequest: {} })
  }

  /** Connects again, because another process may serve now or soon. */
  reconnect(): void {
    if (this.#link !== null) this.#connectAgain(this.#link)
  }

  reportNow(): void {
    if (this.#link !== null) this.#beat(this.#link)
  }

  async #connect(): Promise<void> {
    const { events, hello, settings, writes } = this.#deps
    const { control, logger, service, versions } = settings
    const start = this.#starts
    try {
      const link = new Link(await Channel.connect(control, { timeoutMs: 1_000, as: 'member' }))
      // stop() was called during the attempt, and possibly start() again, which makes its own connection.
      if (!this.#running || start !== this.#starts) {
        link.close()
        return
      }
      link.channel.unref()
      this.#link = link
      this.#connectedAt = performance.now()
      this.#failures = 0
      link.start({
        message: (envelope, fds) => {
          closeAll(fds)
          const { welcome, written } = envelope
          if (welcome) writes.onWelcome(link, welcome)
          if (written) writes.onWritten(link, written)
          events.handle?.(envelope)
        },
        bundle: items => events.adopt(items),
        broken: error => {
          events.broken?.(error)
          this.#connectAgain(link)
        },
        end: () => this.#connectAgain(link),
      })
      const { intent, ...facts } = hello()
      const capabilities = [FORWARDS_WRITES, READS_SNAPSHOTS]
      link.post(helloFor(intent, { versions, service, capabilities, ...facts }))
      this.#beat(link)
      writes.onConnected(link)
      events.connected?.()
    } catch (error) {
      if (this.#failures++ === 0)
        logger.debug(
          { err: error, service },
          'the serving process cannot be reached yet; this process tries again until it can',
        )
      const ms = Math.max(LINK_RETRY_MS, this.#deps.everyMs())
      if (start === this.#starts) this.#later(() => void this.#connect(), ms)
    }
  }

  #beat(link: Link): void {
    if (!this.#running || this.#link !== link) return
    this.#sendReport(link)
    this.#later(() => this.#beat(link), this.#deps.everyMs())
  }

  #sendReport(link: Link): void {
    link.beat({ healthy: true, report: JSON.stringify(this.#deps.report()) })
  }

  #connectAgain(link: Link): void {
    link.close()
    if (this.#link === link) this.#link = null
    this.#deps.writes.onLost(link)
    // If the process closed the connection soon after it was made, it would probably do so again: wait longer.
    const refused = performance.now() - this.#connectedAt < LINK_RETRY_MS
    this.#later(() => void this.#connect(), refused ? LINK_RETRY_MS : RECONNECT_MS)
  }

  #later(act: () => void, ms: number): void {
    clearTimeout(this.#timer)
    if (!this.#running) return
    this.#timer = setTimeout(act, ms)
    this.#timer.unref()
  }
}
