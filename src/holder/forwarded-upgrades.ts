import { FdbError } from '../errors.js'
import type { fdbroker } from '../proto/wire.js'
import { remoteError } from '../protocol/remote-error.js'
import type { Upgraded, UpgradeOrder, UpgradeProgress } from './operator.js'
import type { HandoffTimes } from './options.js'
import type { Peer } from './peer.js'
import type { Failure } from './timeline.js'

/** A member ends an upgrade at the limit itself: its word may take so much longer. */
const GRACE_MS = 4_000
/** For its process to start. */
const STARTING_MS = 10_000
const LONGEST_MS = 2 ** 31 - 1
/** What a member that could not upgrade may leave out. */
const UNTOLD = { code: 'ERR_FDB_INTERNAL', message: 'the upgrade failed' } as const

interface Waiting {
  /** The member repeats it: its word on an upgrade that has failed may come when the next one has been asked for. */
  readonly request: number
  progress(step: UpgradeProgress): void
  done(result: Upgraded | FdbError): void
  /** The member was told to give it up, and says when its successor has ended. */
  cancelled: boolean
}

/** A daemon's part in upgrades that operators ask for: the member that serves starts its successor, which joins here. */
export class ForwardedUpgrades {
  readonly #times: HandoffTimes
  readonly #waiting = new Map<Peer, Waiting>()
  #requests = 0

  constructor(times: HandoffTimes) {
    this.#times = times
  }

  /** One at a time of a member. */
  has(peer: Peer): boolean {
    return this.#waiting.has(peer)
  }

  /** Rejects with what the member says, why the handoff failed, ERR_FDB_DEADLINE, ERR_FDB_CHANNEL_CLOSED. */
  ask(
    peer: Peer,
    { argv, timeoutMs }: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
  ): Promise<Upgraded> {
    const { ready, quiesce, freeze, prepare, commit } = this.#times
    // Without a limit of its own the member waits as long as the handoff may take, and for its process to start.
    const limit = timeoutMs || ready + quiesce + freeze + prepare + commit + STARTING_MS
    return new Promise((resolve, reject) => {
      const lateAfter = (ms: number, what: string) => {
        const text = `process ${peer.pid} did not say within ${what} how the upgrade went: it is stuck or stopped; status shows who serves`
        const late = new FdbError('ERR_FDB_DEADLINE', text)
        return setTimeout(() => waiting.done(late), Math.min(ms, LONGEST_MS))
      }
      let timer = lateAfter(limit + GRACE_MS, `${limit} ms (and ${GRACE_MS} more)`)
      const cancelled = () => {
        waiting.cancelled = true
        const { code, message } = cancel.reason as FdbError
        this.#tell(peer, { code, message })
        clearTimeout(timer)
        const most = GRACE_MS + prepare + commit
        timer = lateAfter(most, `${most} ms after it was cancelled`)
      }
      const request = ++this.#requests
      const waiting: Waiting = {
        request,
        progress,
        cancelled: false,
        done: result => {
          clearTimeout(timer)
          cancel.removeEventListener('abort', cancelled)
          if (this.#waiting.get(peer) === waiting) this.#waiting.delete(peer)
          if (result instanceof FdbError) reject(result)
          else resolve(result)
        },
      }
      this.#waiting.set(peer, waiting)
      peer.link.tell({ upgradeRequest: { argv: [...argv], timeoutMs, request } })
      if (cancel.aborted) cancelled()
      else cancel.addEventListener('abort', cancelled, { once: true })
    })
  }

  progressed(peer: Peer, { phase, at, pid }: fdbroker.wire.Progress.$Properties): void {
    this.#waiting.get(peer)?.progress({ phase: phase ?? '', at: at ?? 0, pid: pid ?? 0 })
  }

  answered(peer: Peer, result: fdbroker.wire.Result.$Properties): void {
    const { ok, pid, generation, request } = result
    const waiting = this.#waiting.get(peer)
    if (request && request !== waiting?.request) return
    if (ok) waiting?.done({ pid: pid ?? 0, generation: generation ?? 0 })
    else waiting?.done(remoteError(result, UNTOLD))
  }

  /** The handoff has failed. Who started the successor does not see it: it is told. */
  failed({ code, message, phase }: Failure): void {
    for (const [peer, waiting] of [...this.#waiting]) {
      if (waiting.cancelled) continue
      this.#tell(peer, { code, message, phase })
      const text = `${message} (phase ${phase}; the incumbent serves on)`
      waiting.done(new FdbError(code, text))
    }
  }

  /** This member is gone. */
  forget(peer: Peer): void {
    const why = `process ${peer.pid} ended before it answered`
    this.#waiting.get(peer)?.done(new FdbError('ERR_FDB_CHANNEL_CLOSED', why))
  }

  #tell(peer: Peer, why: { code: string; message: string; phase?: string }): void {
    peer.link.tell({ result: { ok: false, ...why } })
  }
}
