import type { fdbroker } from '../proto/wire.js'
import type { BundleItem } from '../wire/bundle.js'
import { type Link, peerLeft } from '../wire/link.js'
import { deadlineError, Pending } from '../wire/pending.js'

import { remoteError } from '../wire/remote-error.js'

/** What a daemon that does not keep it may leave out. */
const REFUSED = { code: 'ERR_FDB_REJECTED', message: 'the daemon did not take it' } as const

/** What the daemon has not answered yet. */
interface Registration {
  /** Borrowed. */
  readonly items: readonly BundleItem[]
  readonly registered: Pending<void>
  /** Over which it was asked last. */
  link: Link
}

/** Daemon hosting: what is given to the daemon to keep, and its answers. */
export class Registrations {
  readonly #waiting = new Map<number, Registration>()
  #next = 1

  /** The daemon takes dups of these, and says so. Rejects with what it answers, ERR_FDB_DEADLINE, ERR_FDB_CHANNEL_CLOSED. */
  async send(link: Link, items: readonly BundleItem[], timeoutMs: number): Promise<void> {
    const request = this.#next++
    const registered = new Pending<void>()
    const registration: Registration = { items, registered, link }
    this.#waiting.set(request, registration)
    try {
      await this.#tell(registration, request, timeoutMs)
      registered.limit(timeoutMs, () =>
        registered.reject(deadlineError('the daemon’s answer to Register', timeoutMs)),
      )
      await registered.answer
    } finally {
      this.#waiting.delete(request)
    }
  }

  /** Another daemon is there: it has not heard of what the one before did not answer. */
  again(link: Link, timeoutMs: number): void {
    for (const [request, registration] of this.#waiting) {
      registration.link = link
      this.#tell(registration, request, timeoutMs).catch(error => registration.registered.reject(error))
    }
  }

  answered(registered: fdbroker.wire.Registered.$Properties): void {
    const waiter = this.#waiting.get(registered.request ?? 0)
    if (registered.code) waiter?.registered.reject(remoteError(registered, REFUSED))
    else waiter?.registered.resolve()
  }

  fail(error: Error): void {
    for (const waiter of this.#waiting.values()) waiter.registered.reject(error)
  }

  /** What the link is lost with is told over the next one. */
  async #tell(registration: Registration, request: number, timeoutMs: number): Promise<void> {
    const { items, link } = registration
    try {
      await link.sendBundle(items, timeoutMs)
      await link.send({ register: { request } })
    } catch (error) {
      if (registration.link === link && !peerLeft(error)) throw error
    }
  }
}
