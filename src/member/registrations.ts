import { deadlineError } from '../channel/deadline.js'
import { Pending } from '../channel/pending.js'
import type { fdbroker } from '../proto/wire.js'
import type { BundleItem } from '../protocol/bundle.js'
import type { Link } from '../protocol/link.js'
import { remoteError } from '../protocol/remote-error.js'

/** What a daemon that does not keep it may leave out. */
const REFUSED = { code: 'ERR_FDB_REJECTED', message: 'the daemon did not take it' } as const

/** Daemon hosting: what is given to the daemon to keep, and its answers. */
export class Registrations {
  readonly #waiting = new Map<number, Pending<void>>()
  #next = 1

  /** The daemon takes dups of these, and says so. Rejects with what it answers, ERR_FDB_DEADLINE, ERR_FDB_CHANNEL_CLOSED. */
  async send(link: Link, items: readonly BundleItem[], timeoutMs: number): Promise<void> {
    const request = this.#next++
    const registered = new Pending<void>()
    this.#waiting.set(request, registered)
    try {
      await link.sendBundle(items, timeoutMs)
      await link.send({ register: { request } })
      registered.limit(timeoutMs, () =>
        registered.reject(deadlineError('the daemon’s answer to Register', timeoutMs)),
      )
      await registered.answer
    } finally {
      this.#waiting.delete(request)
    }
  }

  answered(registered: fdbroker.wire.Registered.$Properties): void {
    const waiter = this.#waiting.get(registered.request ?? 0)
    if (registered.code) waiter?.reject(remoteError(registered, REFUSED))
    else waiter?.resolve()
  }

  fail(error: Error): void {
    for (const waiter of this.#waiting.values()) waiter.reject(error)
  }
}
