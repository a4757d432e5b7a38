import { closeAll } from '../kernel/index.js'
import { fdbroker } from '../proto/wire.js'
import type { BundleItem } from '../wire/bundle.js'
import { Channel } from '../wire/channel.js'
import { FORWARDS_WRITES, Link, type VersionRange, type WireEnvelope } from '../wire/link.js'
import type { WriteRedirect } from './writes/redirect.js'

export interface ServingLinkOptions {
  readonly control: string
  readonly service: string
  readonly generation: number
  readonly versions: VersionRange
  readonly everyMs: () => number
  readonly report: () => object
  /** This process has the state of that service, and is a member of this one; absent: it drains. */
  readonly follower?: string
  /** Whose segments it holds. */
  readonly serviceStartedAt?: () => number
  /** The highest epoch whose segment this process holds. */
  readonly top: () => number
  /** New segments, from which this process answers until its last connection ends; or a migration channel. */
  readonly adopt: (items: BundleItem[]) => void
  /** The process that serves now hears us. */
  readonly connected: () => void
  /** Takes the changes of this process along. */
  readonly writes: WriteRedirect
  /** The connection ended so; another one follows. */
  readonly broken?: (error: unknown) => void
  /** Handles other messages of it. */
  readonly handle?: (envelope: WireEnvelope) => void
}

const { Intent } = fdbroker.wire
const RETRY_MS = 250
/** After a replacement the next process accepts already. */
const AGAIN_MS = 10

/**
 * Keeps the process that serves informed about a generation that stands by or drains, so that `status` shows all of them, or about a
 * process that follows its state: over a connection of its own to the control path, made again when that process is replaced in turn.
 */
export class ServingLink {
  readonly #options: ServingLinkOptions
  #link: Link | null = null
  #timer: NodeJS.Timeout | undefined
  #running = false
  #connectedAt = 0
  /** Counts the starts. */
  #turn = 0

  constructor(options: ServingLinkOptions) {
    this.#options = options
  }

  start(): void {
    if (this.#running) return
    this.#running = true
    this.#turn++
    void this.#connect()
  }

  /** Says once more how it is: what is told last is what is known of a process that has ended. */
  stop(): void {
    this.#running = false
    clearTimeout(this.#timer)
    if (this.#link !== null) this.#sendReport(this.#link)
    const link = this.#link
    this.#link = null
    link?.close()
    if (link !== null) this.#options.writes.lost(link)
  }

  /** Asks the process that serves for a migration channel for our connections. */
  askForMove(): void {
    this.#link?.post({ moveRequest: {} })
  }

  /** Perhaps another serves by now, or will soon. */
  reconnect(): void {
    if (this.#link !== null) this.#again(this.#link)
  }

  /** Something has changed that must be known before this process ends. */
  now(): void {
    if (this.#link !== null) this.#beat(this.#link)
  }

  async #connect(): Promise<void> {
    const { control, follower, service, generation, versions, handle: hear } = this.#options
    const turn = this.#turn
    try {
      const link = new Link(await Channel.connect(control, { timeoutMs: 1_000, as: 'member' }))
      // Stopped meanwhile, perhaps started again: then another connection is on its way.
      if (!this.#running || turn !== this.#turn) {
        link.close()
        return
      }
      link.channel.unref()
      this.#link = link
      this.#connectedAt = performance.now()
      link.start({
        message: (envelope, fds) => {
          closeAll(fds)
          const { welcome, written } = envelope
          if (welcome) this.#options.writes.welcomed(link, welcome)
          if (written) this.#options.writes.written(link, written)
          hear?.(envelope)
        },
        bundle: items => this.#options.adopt(items),
        broken: error => {
          this.#options.broken?.(error)
          this.#again(link)
        },
        end: () => this.#again(link),
      })
      link.post({
        hello: {
          versionMin: versions.min,
          versionMax: versions.max,
          service,
          intent: follower === undefined ? Intent.DRAINING : Intent.FOLLOW,
          pid: process.pid,
          generation,
          capabilities: [FORWARDS_WRITES],
          top: this.#options.top(),
          follower: follower ?? '',
          serviceStartedAt: this.#options.serviceStartedAt?.() ?? 0,
        },
      })
      this.#beat(link)
      this.#options.writes.connected(link)
      this.#options.connected()
    } catch {
      const ms = Math.max(RETRY_MS, this.#options.everyMs())
      if (turn === this.#turn) this.#later(() => void this.#connect(), ms)
    }
  }

  #beat(link: Link): void {
    if (!this.#running || this.#link !== link) return
    this.#sendReport(link)
    this.#later(() => this.#beat(link), this.#options.everyMs())
  }

  #sendReport(link: Link): void {
    link.beat({ healthy: true, report: JSON.stringify(this.#options.report()) })
  }

  #again(link: Link): void {
    link.close()
    if (this.#link === link) this.#link = null
    this.#options.writes.lost(link)
    // A process that refuses at once does so again.
    const sentAway = performance.now() - this.#connectedAt < RETRY_MS
    this.#later(() => void this.#connect(), sentAway ? RETRY_MS : AGAIN_MS)
  }

  #later(act: () => void, ms: number): void {
    clearTimeout(this.#timer)
    if (!this.#running) return
    this.#timer = setTimeout(act, ms)
    this.#timer.unref()
  }
}
