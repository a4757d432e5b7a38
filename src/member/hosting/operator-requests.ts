import { FdbError } from '../../errors.js'
import type { Operations } from '../../operator/requests.js'
import { RequestHandler } from '../../operator/server.js'
import type { StateLog } from '../../state/state-log.js'
import type { CancelResult } from '../../versions/upgrade-attempt.js'
import { type Link, remoteError, type WireEnvelope } from '../../wire/link.js'
import { Pending } from '../../wire/pending.js'
import { WriteReceiver } from '../state/write-receiver.js'

/** The time to wait for the reply to a cancellation. Older daemons send none. */
const CANCELLED_MS = 1_000

/** Daemon hosting: the requests of operators, which the daemon forwards to the member that serves. */
export class OperatorRequests {
  readonly #state: StateLog
  readonly #link: () => Link | undefined
  readonly #requests: RequestHandler
  readonly #appends: AppendNotice
  #cancelled: Pending<CancelResult | null> | null = null
  #writes: { link: Link; receiver: WriteReceiver } | null = null

  constructor(operations: Operations, state: StateLog, link: () => Link | undefined) {
    this.#state = state
    this.#link = link
    this.#appends = new AppendNotice(state.appendListeners, () => this.#link()?.post({ appended: {} }))
    const heard = () => heardAll(this.#link())
    this.#requests = new RequestHandler(operations, body => this.#link()?.post(body), { heard })
  }

  /** Returns whether the message was a request. */
  handle(envelope: WireEnvelope): boolean {
    const { cancelCommand, write, result, tellAppended, upgradeCancelled } = envelope
    const link = this.#link()
    const answer = this.#requests.answer(envelope)
    if (answer !== null) {
      void answer.then(body => {
        // Only the reply of an upgrade may go over a new link: a restarted daemon uses the numbers of the other requests again.
        if (envelope.upgradeRequest) this.#link()?.post(body)
        // If `status` failed, an empty one is sent, because the daemon would take a Result as the answer to an upgrade.
        else link?.post(envelope.statusRequest && body.result ? { status: { json: '' } } : body)
      })
    } else if (write) this.#writesOf(link)?.receive(write)
    else if (tellAppended) this.#appends.want(tellAppended.wanted ?? false)
    else if (cancelCommand) this.#requests.cancelCommand(cancelCommand.request ?? 0, gone())
    else if (upgradeCancelled) this.#cancelled?.resolve(upgradeCancelled.outcome as CancelResult)
    else if (result) {
      // The handoff of an upgrade has failed, and the daemon has reported that to the operator.
      this.#requests.cancelUpgrades(
        remoteError(result, { code: 'ERR_FDB_ABORTED', message: 'the handoff failed' }),
      )
    } else return false
    return true
  }

  /** Asks the daemon to give up the successor that this member started. Resolves with null if the daemon does not answer. */
  async cancelHandoff({ code, message }: FdbError): Promise<CancelResult | null> {
    this.#link()?.post({ cancelUpgrade: { code, message } })
    const cancelled = new Pending<CancelResult | null>()
    this.#cancelled = cancelled.limit(CANCELLED_MS, () => cancelled.resolve(null))
    return await cancelled.answer
  }

  close(): void {
    this.#appends.close()
    this.#requests.close(`process ${process.pid} ends`)
  }

  /** Returns the receiver of changes that draining generations and followers forward through the daemon. */
  #writesOf(link: Link | undefined): WriteReceiver | null {
    if (link === undefined) return null
    if (this.#writes?.link !== link)
      this.#writes = { link, receiver: new WriteReceiver(this.#state, body => link.post(body)) }
    return this.#writes.receiver
  }
}

/**
 * Resolves when the messages that had arrived before are read: if this process was stopped, the cancellation of a request may be among them.
 * Rejects if the daemon has left.
 */
async function heardAll(link: Link | undefined): Promise<void> {
  // Not in this call, which handles one of these messages.
  await new Promise(resolve => setImmediate(resolve))
  link?.channel.readNow()
  if (link === undefined || link.channel.isHungUp) throw gone()
}

function gone(): FdbError {
  return new FdbError('ERR_FDB_ABORTED', 'the sender of the order has gone: the order was not begun')
}

const EVERY_MS = 10

/** Notifies the daemon when this process's log has grown: at once, then at most every {@link EVERY_MS}. */
export class AppendNotice {
  readonly #appended: Set<() => void>
  readonly #notify: () => void
  readonly #onAppend = () => this.#schedule()
  #notifiedAt = Number.NEGATIVE_INFINITY
  #timer: NodeJS.Timeout | undefined

  /** `appended`: the set of functions that the log calls when it has grown. */
  constructor(appended: Set<() => void>, notify: () => void) {
    this.#appended = appended
    this.#notify = notify
  }

  /** Starts or stops the notices. The first one reports the present state. */
  want(wanted: boolean): void {
    this.close()
    if (!wanted) return
    this.#appended.add(this.#onAppend)
    this.#schedule()
  }

  close(): void {
    this.#appended.delete(this.#onAppend)
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #schedule(): void {
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined
        this.#notifiedAt = performance.now()
        this.#notify()
      },
      Math.max(0, this.#notifiedAt + EVERY_MS - performance.now()),
    ).unref()
  }
}
