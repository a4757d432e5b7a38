import { FdbError } from '../errors.js'
import type { fdbroker } from '../proto/wire.js'
import { COMMAND_MS, type CommandContext, type CommandOrder, resultOf } from './command.js'
import type { Peer } from './peer.js'

/** Commands that wait for a member's reply; more are refused. */
const MOST = 64

interface Waiting {
  readonly peer: Peer
  settle(outcome: Buffer | FdbError): void
}

/** A daemon's part in operators' commands: the member that serves is asked, and its reply passed on. */
export class ForwardedCommands {
  readonly #waiting = new Map<number, Waiting>()
  #next = 1

  /** Rejects with what the member says, ERR_FDB_BUSY, ERR_FDB_DEADLINE, ERR_FDB_CHANNEL_CLOSED. */
  ask(peer: Peer, { name, body }: CommandOrder, { signal }: CommandContext): Promise<Buffer> {
    if (!peer.link.open || this.#waiting.size >= MOST) {
      const why = peer.link.open
        ? `${this.#waiting.size} commands wait for their replies already`
        : `process ${peer.pid} cannot be asked now`
      return Promise.reject(new FdbError('ERR_FDB_BUSY', `${why}: try again`, { retryable: true }))
    }
    const request = this.#next++
    return new Promise((resolve, reject) => {
      const settle = (outcome: Buffer | FdbError) => {
        if (!this.#waiting.delete(request)) return
        clearTimeout(timer)
        signal.removeEventListener('abort', left)
        if (outcome instanceof FdbError) reject(outcome)
        else resolve(outcome)
      }
      const late = `process ${peer.pid} has not answered the command "${name}" within ${COMMAND_MS} ms`
      const timer = setTimeout(() => settle(new FdbError('ERR_FDB_DEADLINE', late)), COMMAND_MS)
      const left = () => settle(new FdbError('ERR_FDB_ABORTED', 'the operator has left'))
      signal.addEventListener('abort', left, { once: true })
      this.#waiting.set(request, { peer, settle })
      if (signal.aborted) left()
      else peer.link.tell({ command: { name, body, request } })
    })
  }

  answered(peer: Peer, reply: fdbroker.wire.CommandReply.$Properties): void {
    const waiting = this.#waiting.get(reply.request ?? 0)
    if (waiting?.peer !== peer) return
    try {
      waiting.settle(resultOf(reply))
    } catch (error) {
      waiting.settle(error as FdbError)
    }
  }

  /** This member is gone. */
  forget(peer: Peer): void {
    for (const waiting of [...this.#waiting.values()]) {
      if (waiting.peer !== peer) continue
      const why = `process ${peer.pid} ended before it had answered: it may have done what it was asked for`
      waiting.settle(new FdbError('ERR_FDB_CHANNEL_CLOSED', why, { retryable: true }))
    }
  }
}
