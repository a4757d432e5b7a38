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
import { anotherFailed, type Failure } from '../../operator/status-report.js'
import { isOfAnother, type Lineage } from '../../os/lineage.js'
import type { fdbroker } from '../../proto/wire.js'
import { BROKEN_CODES, REASON_MS } from '../../versions/upgrade-attempt.js'
import { Calls } from '../../wire/pending.js'

/** The member enforces the time limit of an upgrade itself; its answer may arrive this much later. */
const GRACE_MS = 4_000
/** Time for the member to tell the exit code and the last lines of its successor, whose connection or process has ended. */
const TOLD_MS = REASON_MS + 500
/** Time limit for the successor's process to start. */
const SPAWN_MS = 10_000
/** The failure of a member that reports none. */
const NO_REASON = { code: 'ERR_FDB_INTERNAL', message: 'the upgrade failed' } as const

interface UpgradeContext {
  /** The link by which the member was asked. */
  readonly link: Peer['link']
  progress(step: UpgradeProgress): void
  /** The member was asked to cancel the upgrade; it answers when its successor has ended. */
  cancelled: boolean
  /** The pid of the successor's command, as the member knows it; 0 until the member has started it. */
  started: number
  /** The last failure of a process that another command has started; null if there is none. */
  failureOfAnother: Failure | null
}

/** Forwards operators' upgrade requests to the serving member, which starts its successor; that one joins at this daemon. */
export class ForwardedUpgrades {
  readonly #times: HandoffTimes
  /** Numbered, because the result of a failed upgrade may arrive after the next request. */
  readonly #calls = new Calls<Peer, Upgraded, UpgradeContext>()

  constructor(times: HandoffTimes) {
    this.#times = times
  }

  /** Whether an upgrade of this member is running; each member has at most one. */
  has(peer: Peer): boolean {
    return this.#calls.callsTo(peer).length > 0
  }

  /** Forwards an upgrade. Rejects with the member's error, the reason why the handoff failed, ERR_FDB_DEADLINE or ERR_FDB_CHANNEL_CLOSED. */
  ask(
    peer: Peer,
    { argv, timeoutMs, without }: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
  ): Promise<Upgraded> {
    const { ready, quiesce, freeze, prepare, commit } = this.#times
    // Without a limit in the request the member allows for the start of the process and all phases of the handoff.
    const limit = timeoutMs || ready + quiesce + freeze + prepare + commit + SPAWN_MS
    const onSettled = () => cancel.removeEventListener('abort', cancelled)
    const context = { link: peer.link, progress, cancelled: false, started: 0, failureOfAnother: null }
    const call = this.#calls.open(peer, context, { onSettled })
    const { number: request, pending } = call
    const within = (ms: number, what: string) => {
      const text = `process ${peer.pid} did not report the result of the upgrade within ${what}: it is stuck or stopped; status shows which process serves`
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
    peer.link.post({ upgradeRequest: { argv: [...argv], timeoutMs, request, without: [...without] } })
    if (cancel.aborted) cancelled()
    else cancel.addEventListener('abort', cancelled, { once: true })
    return pending.answer.catch(error => {
      throw withFailure(error, call.failureOfAnother)
    })
  }

  handleProgress(peer: Peer, progress: fdbroker.wire.Progress.$Properties): void {
    const [call] = this.#calls.callsTo(peer)
    if (call === undefined) return
    const step = readProgress(progress)
    if (step.phase === 'started') call.started = step.pid
    call.progress(step)
  }

  handleResult(peer: Peer, result: fdbroker.wire.Result.$Properties): void {
    this.#calls.answer(peer, result.request ?? 0, () => readUpgraded(result, NO_REASON))
  }

  /**
   * Rejects the running upgrades after a failed handoff, and notifies their members, which do not see the handoff. `failed`: its process; null if that is
   * unknown. Goes on with an upgrade if another command has started that process.
   */
  failed(failure: Failure, failed: Lineage | null): void {
    const { code, message, phase } = failure
    for (const call of this.#calls.callsTo()) {
      const { cancelled, peer, pending, started } = call
      if (cancelled) continue
      if (failed !== null && isOfAnother(failed, leaderOf(peer, started))) {
        call.failureOfAnother = failure
        continue
      }
      sendFailure(peer, { code, message, phase })
      const reject = () =>
        pending.reject(new FdbError(code, `${message} (phase ${phase}; the incumbent keeps serving)`))
      if (!BROKEN_CODES.has(code)) {
        reject()
        continue
      }
      call.cancelled = true
      pending.limit(TOLD_MS, reject)
    }
  }

  /**
   * Asks a member that has reconnected, and has not told of a start, to give up its upgrade, as the request, or what it told, is lost with the connection.
   * Rejects the upgrade without an answer: the member knows of none.
   */
  changed(): void {
    for (const call of this.#calls.callsTo()) {
      const { cancelled, link, peer, pending, started } = call
      if (cancelled || started > 0 || link === peer.link || peer.returning) continue
      call.cancelled = true
      const message = `the connection to process ${peer.pid} broke before it told whether it starts its successor, which may still take over: see fd-broker status before you try again`
      sendFailure(peer, { code: 'ERR_FDB_CHANNEL_CLOSED', message })
      pending.limit(TOLD_MS, () => pending.reject(new FdbError('ERR_FDB_CHANNEL_CLOSED', message)))
    }
  }

  /** Rejects the upgrade of a member that has left. */
  forget(peer: Peer): void {
    const reason = `process ${peer.pid} ended before it answered`
    this.#calls.fail(new FdbError('ERR_FDB_CHANNEL_CLOSED', reason), peer)
  }
}

const UNKNOWN = -1

/** Returns the pid here of the command that the member has started as `started`. */
export function leaderOf(member: Peer, started: number): number {
  return started > 0 && member.lineage.sharesPids ? started : UNKNOWN
}

/** Adds to the error the failure of a process that may be the successor all the same: a service manager may have started it. */
function withFailure(error: unknown, failure: Failure | null): unknown {
  if (failure === null || !FdbError.is(error)) return error
  const { code, details, message, phase, retryable } = error
  const more = `; ${anotherFailed(failure)}`
  return new FdbError(code, message + more, {
    cause: error,
    details,
    retryable,
    ...(phase !== undefined && { phase }),
  })
}

function sendFailure(peer: Peer, failure: { code: string; message: string; phase?: string }): void {
  peer.link.post({ result: { ok: false, ...failure } })
}
