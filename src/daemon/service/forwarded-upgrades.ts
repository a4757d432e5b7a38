import { FdbError } from '../../errors.js'
import type { Peer } from '../../holder/peer.js'
import type { HandoffTimes } from '../../holder/times.js'
import {
  readProgress,
  readUpgraded,
  type Upgraded,
  type UpgradeOrder,
  type UpgradeProgress,
} from '../../operator/requests.js'
import type { Failure } from '../../operator/status-report.js'
import type { fdbroker } from '../../proto/wire.js'
import { Calls } from '../../wire/calls.js'

/** A member ends an upgrade at the limit itself: its word may take so much longer. */
const GRACE_MS = 4_000
/** How long the successor's process may take to start. */
const STARTING_MS = 10_000
/** The failure of a member that gives no reason. */
const UNTOLD = { code: 'ERR_FDB_INTERNAL', message: 'the upgrade failed' } as const

interface UpgradeContext {
  progress(step: UpgradeProgress): void
  /** The member was told to give it up, and says when its successor has ended. */
  cancelled: boolean
}

/** A daemon's part in upgrades that operators ask for: the member that serves starts its successor, which joins here. */
export class ForwardedUpgrades {
  readonly #times: HandoffTimes
  /** Numbered: a member's word on an upgrade that has failed may come when the next one has been asked for. */
  readonly #calls = new Calls<Peer, Upgraded, UpgradeContext>()

  constructor(times: HandoffTimes) {
    this.#times = times
  }

  /** One at a time of a member. */
  has(peer: Peer): boolean {
    return this.#calls.of(peer).length > 0
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
    const over = () => cancel.removeEventListener('abort', cancelled)
    const call = this.#calls.open(peer, { progress, cancelled: false }, { onSettled: over })
    const { number: request, pending } = call
    const within = (ms: number, what: string) => {
      const text = `process ${peer.pid} did not say within ${what} how the upgrade went: it is stuck or stopped; status shows who serves`
      pending.limit(ms, () => pending.reject(new FdbError('ERR_FDB_DEADLINE', text)))
    }
    const cancelled = () => {
      call.cancelled = true
      const { code, message } = cancel.reason as FdbError
      sendFailure(peer, { code, message })
      const most = GRACE_MS + prepare + commit
      within(most, `${most} ms after it was cancelled`)
    }
    within(limit + GRACE_MS, `${limit} ms (and ${GRACE_MS} more)`)
    peer.link.post({ upgradeRequest: { argv: [...argv], timeoutMs, request } })
    if (cancel.aborted) cancelled()
    else cancel.addEventListener('abort', cancelled, { once: true })
    return pending.answer
  }

  handleProgress(peer: Peer, progress: fdbroker.wire.Progress.$Properties): void {
    this.#calls.of(peer)[0]?.progress(readProgress(progress))
  }

  handleResult(peer: Peer, result: fdbroker.wire.Result.$Properties): void {
    this.#calls.answer(peer, result.request ?? 0, () => readUpgraded(result, UNTOLD))
  }

  /** The handoff has failed. The process that started the successor does not see it: it is told. */
  failed({ code, message, phase }: Failure): void {
    for (const { cancelled, peer, pending } of this.#calls.of()) {
      if (cancelled) continue
      sendFailure(peer, { code, message, phase })
      pending.reject(new FdbError(code, `${message} (phase ${phase}; the incumbent serves on)`))
    }
  }

  /** This member is gone. */
  forget(peer: Peer): void {
    const why = `process ${peer.pid} ended before it answered`
    this.#calls.fail(new FdbError('ERR_FDB_CHANNEL_CLOSED', why), peer)
  }
}

function sendFailure(peer: Peer, why: { code: string; message: string; phase?: string }): void {
  peer.link.post({ result: { ok: false, ...why } })
}
