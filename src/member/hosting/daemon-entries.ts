import { type Entry, entryItem } from '../../holder/entry.js'
import type { Registry } from '../../holder/registry.js'
import type { fdbroker } from '../../proto/wire.js'
import type { BundleItem } from '../../wire/bundle.js'
import { type Link, peerLeft, remoteError, type WireEnvelope } from '../../wire/link.js'
import { type Call, Calls, deadlineError } from '../../wire/pending.js'
import type { Settings } from '../options/options.js'
import type { JoinedHolder } from './joined-holder.js'

export interface DaemonEntriesDeps {
  readonly settings: Pick<Settings, 'logger' | 'timeout'>
  readonly registry: Registry
  readonly joined: Pick<JoinedHolder, 'link' | 'post'>
  /** Throws ERR_FDB_CLOSED if this process has left. */
  readonly throwIfLeft: () => void
}

/** Daemon hosting: the descriptors that the daemon must keep. */
export class DaemonEntries {
  readonly #deps: DaemonEntriesDeps
  readonly #registrations = new Registrations()

  constructor(deps: DaemonEntriesDeps) {
    this.#deps = deps
  }

  /** Resolves when the daemon has a dup. Closes the descriptor if it rejects. */
  async store(entry: Entry): Promise<void> {
    try {
      await this.give([entryItem(entry)])
      this.#deps.throwIfLeft()
    } catch (error) {
      entry.fd.close()
      this.#takeBackFrom(entry.name)
      throw error
    }
  }

  /** Undoes a registration that failed or timed out, because the daemon may still have accepted it. */
  #takeBackFrom(name: string): void {
    const { registry, settings } = this.#deps
    const present = registry.get(name)
    if (present !== undefined && registry.wanted.has(name))
      this.give([entryItem(present)]).catch(error =>
        settings.logger.warn(
          { err: error, name },
          'the daemon may still have a descriptor whose registration has failed',
        ),
      )
    else this.drop(name)
  }

  drop(name: string): void {
    this.#deps.joined.post({ register: { drop: true, item: { name } } })
  }

  async give(items: readonly BundleItem[]): Promise<void> {
    const { joined, settings } = this.#deps
    if (joined.link !== undefined) await this.#registrations.send(joined.link, items, settings.timeout)
  }

  /** Returns whether the message was the answer to a registration. */
  handle({ registered }: WireEnvelope): boolean {
    if (registered) this.#registrations.onAnswer(registered)
    return Boolean(registered)
  }

  /** See {@link Registrations.hold}. */
  hold(link: Link): void {
    this.#registrations.hold(link)
  }

  /** See {@link Registrations.repeat}. */
  repeat(link: Link): void {
    this.#registrations.repeat(link, this.#deps.settings.timeout)
  }

  fail(why: Error): void {
    this.#registrations.fail(why)
  }
}

/** The refusal of a daemon that gives no reason. */
const REFUSED = { code: 'ERR_FDB_REJECTED', message: 'the daemon did not accept the registration' } as const

/** A registration that the daemon has not answered yet. */
interface Registration {
  /** Borrowed. */
  readonly items: readonly BundleItem[]
  /** The link over which the registration was sent last. */
  link: Link
}

/** Daemon hosting: the registrations of descriptors that the daemon must keep. */
export class Registrations {
  readonly #calls = new Calls<null, void, Registration>()
  #held: Link | null = null

  /** Resolves when the daemon has dups of `items`. Rejects with the daemon's error, ERR_FDB_DEADLINE or ERR_FDB_CHANNEL_CLOSED. */
  async send(link: Link, items: readonly BundleItem[], timeoutMs: number): Promise<void> {
    const call = this.#calls.open(null, { items, link })
    try {
      await this.#announce(call, timeoutMs)
    } catch (error) {
      call.pending.reject(error)
    }
    const late = () => call.pending.reject(deadlineError('the daemon’s reply to Register', timeoutMs))
    await call.pending.limit(timeoutMs, late).answer
  }

  /** Sends nothing over this new link until {@link repeat}. Limits of time run on. */
  hold(link: Link): void {
    this.#held = link
  }

  /** Repeats the unanswered registrations over a new link, and sends those that were held. */
  repeat(link: Link, timeoutMs: number): void {
    if (this.#held === link) this.#held = null
    for (const call of this.#calls.callsTo()) {
      call.link = link
      this.#announce(call, timeoutMs).catch(error => call.pending.reject(error))
    }
  }

  onAnswer(registered: fdbroker.wire.Registered.$Properties): void {
    this.#calls.answer(null, registered.request ?? 0, () => {
      if (registered.code) throw remoteError(registered, REFUSED)
    })
  }

  fail(error: Error): void {
    this.#calls.fail(error)
  }

  /** Sends a registration. Ignores the loss of the link, because {@link repeat} follows. */
  async #announce(call: Call<null, void> & Registration, timeoutMs: number): Promise<void> {
    const { items, link, number: request } = call
    if (link === this.#held) return
    try {
      await link.sendBundle(items, timeoutMs)
      await link.send({ register: { request } })
    } catch (error) {
      if (call.link === link && !peerLeft(error)) throw error
    }
  }
}
