import { FdbError } from '../../errors.js'
import type { Peer } from '../../holder/peer.js'
import {
  COMMAND_MS,
  type CommandContext,
  type CommandOrder,
  readCommandReply,
} from '../../operator/requests.js'
import type { fdbroker } from '../../proto/wire.js'
import { Pending } from '../../wire/pending.js'

/** Commands that wait for a member's reply; more are refused. */
const MOST = 64

interface Waiting {
  readonly peer: Peer
  readonly pending: Pending<Buffer>
}

/** A daemon's part in operators' commands: the member that serves is asked, and its reply passed on. */
export class ForwardedCommands {
  readonly #waiting = new Map<number, Waiting>()
  #next = 1

  /** Rejects with what the member says, ERR_FDB_BUSY, ERR_FDB_DEADLINE, ERR_FDB_CHANNEL_CLOSED, the signal's reason. */
  async ask(peer: Peer, { name, body }: CommandOrder, { signal }: CommandContext): Promise<Buffer> {
    if (!peer.link.open || this.#waiting.size >= MOST) {
      const why = peer.link.open
        ? `${this.#waiting.size} commands wait for their replies already`
        : `process ${peer.pid} cannot be asked now`
      throw new FdbError('ERR_FDB_BUSY', `${why}: try again`, { retryable: true })
    }
    const request = this.#next++
    const pending = new Pending<Buffer>({ signal, over: () => this.#waiting.delete(request) })
    if (pending.settled) return pending.answer
    this.#waiting.set(request, { peer, pending })
    peer.link.tell({ command: { name, body, request } })
    const late = `process ${peer.pid} has not answered the command "${name}" within ${COMMAND_MS} ms`
    return pending.limit(COMMAND_MS, () => pending.reject(new FdbError('ERR_FDB_DEADLINE', late))).answer
  }

  answered(peer: Peer, reply: fdbroker.wire.CommandReply.$Properties): void {
    const waiting = this.#waiting.get(reply.request ?? 0)
    if (waiting?.peer !== peer) return
    try {
      waiting.pending.resolve(readCommandReply(reply))
    } catch (error) {
      waiting.pending.reject(error)
    }
  }

  /** This member is gone. */
  forget(peer: Peer): void {
    for (const { peer: asked, pending } of [...this.#waiting.values()]) {
      if (asked !== peer) continue
      const why = `process ${peer.pid} ended before it had answered: it may have done what it was asked for`
      pending.reject(new FdbError('ERR_FDB_CHANNEL_CLOSED', why, { retryable: true }))
    }
  }
}
