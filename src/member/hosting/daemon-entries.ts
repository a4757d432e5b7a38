import { type Entry, entryItem } from '../../holder/entry.js'
import type { Registry } from '../../holder/registry.js'
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

/** The refusal of a daemon that gives no reason. */
const REFUSED = { code: 'ERR_FDB_REJECTED', message: 'the daemon did not accept the registration' } as const

/** A registration that the daemon has not answered yet. */
interface Registration {
  /** Borrowed. */
  readonly items: readonly BundleItem[]
  /** The link over which the registration was sent last. */
  link: Link
}

/** Daemon hosting: the descriptors that the daemon must keep, and their registrations. */
export class DaemonEntries {
  readonly #deps: DaemonEntriesDeps
  readonly #calls = new Calls<null, void, Registration>()
  #held: Link | null = null
  /** Names that were dropped while this process was not back at the daemon: the descriptors that it brings back may still have them. */
  readonly #dropped = new Set<string>()

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

  /** Resolves when the daemon knows that this version uses an entry of the previous version, of which the daemon has a dup. */
  async adopt(entry: Entry): Promise<void> {
    await this.give([entryItem(entry)])
    this.#deps.throwIfLeft()
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
    const { joined } = this.#deps
    if (joined.link !== undefined && (joined.link === this.#held || !joined.link.open))
      this.#dropped.add(name)
    else joined.post({ register: { drop: true, item: { name } } })
  }

  dropListeners(): void {
    for (const { name } of this.#deps.registry.listeners) this.drop(name)
  }

  /** Resolves when the daemon has dups of `items`. Rejects with the daemon's error, ERR_FDB_DEADLINE or ERR_FDB_CHANNEL_CLOSED. */
  async give(items: readonly BundleItem[]): Promise<void> {
    const { joined, settings } = this.#deps
    const { link } = joined
    if (link === undefined) return
    for (const { name = '' } of items) this.#dropped.delete(name)
    const call = this.#calls.open(null, { items, link })
    await this.#announce(call)
    const late = () => call.pending.reject(deadlineError('the daemon’s reply to Register', settings.timeout))
    await call.pending.limit(settings.timeout, late).answer
  }

  /** Returns whether the message was the answer to a registration. */
  handle({ registered }: WireEnvelope): boolean {
    if (!registered) return false
    this.#calls.answer(null, registered.request ?? 0, () => {
      if (registered.code) throw remoteError(registered, REFUSED)
    })
    return true
  }

  /** Sends nothing over this new link until {@link repeat}. Limits of time run on. */
  hold(link: Link): void {
    this.#held = link
  }

  /** Repeats the unanswered registrations over a new link, and sends those that were held, behind what was dropped. */
  repeat(link: Link): void {
    if (this.#held === link) this.#held = null
    for (const name of this.#dropped) link.post({ register: { drop: true, item: { name } } })
    this.#dropped.clear()
    for (const call of this.#calls.callsTo()) {
      call.link = link
      void this.#announce(call)
    }
  }

  fail(why: Error): void {
    this.#calls.fail(why)
  }

  /** Sends a registration; a failure rejects it. Ignores the loss of the link, because {@link repeat} follows. */
  async #announce(call: Call<null, void> & Registration): Promise<void> {
    const { items, link, number: request } = call
    if (link === this.#held) return
    try {
      await link.sendBundle(items, this.#deps.settings.timeout)
      await link.send({ register: { request } })
    } catch (error) {
      if (call.link === link && !peerLeft(error)) call.pending.reject(error)
    }
  }
}
