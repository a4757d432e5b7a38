import type { FdbError } from '../errors.js'
import type { Cancelled } from '../holder/cancel.js'
import type { Operations } from '../operator/requests.js'
import { Requests } from '../operator/server.js'
import type { StateLog } from '../state/state-log.js'
import type { Link, WireEnvelope } from '../wire/link.js'
import { Pending } from '../wire/pending.js'
import { remoteError } from '../wire/remote-error.js'
import { WriteReceiver } from './writes/receiver.js'

/** A daemon that knows the question answers it at once. */
const CANCELLED_MS = 1_000

/** Daemon hosting: what operators asked of the daemon, which passes it on to the member that serves. */
export class OperatorRequests {
  readonly #state: StateLog
  /** The link to the daemon; another one when it was lost and come back to. */
  readonly #link: () => Link | undefined
  readonly #requests: Requests
  /** What the daemon says of an upgrade that is not wanted any more. */
  #cancelled: Pending<Cancelled> | null = null
  #writes: { link: Link; receiver: WriteReceiver } | null = null

  constructor(operations: Operations, state: StateLog, link: () => Link | undefined) {
    this.#state = state
    this.#link = link
    this.#requests = new Requests(operations, body => this.#link()?.tell(body))
  }

  /** Whether it was an order. */
  take(envelope: WireEnvelope): boolean {
    const { write, result, upgradeCancelled } = envelope
    const link = this.#link()
    const answer = this.#requests.answer(envelope)
    if (answer !== null) {
      void answer.then(body => {
        // An upgrade's answer may be due when the daemon has been come back to; a new daemon numbers its commands anew.
        if (envelope.upgradeRequest) this.#link()?.tell(body)
        // Without a status: a Result would be taken for an upgrade's.
        else link?.tell(envelope.statusRequest && body.result ? { status: { json: '' } } : body)
      })
    } else if (write) this.#writesOf(link)?.take(write)
    else if (upgradeCancelled) this.#cancelled?.resolve(upgradeCancelled.outcome as Cancelled)
    else if (result) {
      // The handoff that the upgrade was for has failed; the daemon has told the operator.
      this.#requests.cancelUpgrades(
        remoteError(result, { code: 'ERR_FDB_ABORTED', message: 'the handoff failed' }),
      )
    } else return false
    return true
  }

  /** Has the daemon give up the successor that this member started. One of an earlier release does not know the question. */
  async cancelHandoff({ code, message }: FdbError): Promise<Cancelled> {
    this.#link()?.tell({ cancelUpgrade: { code, message } })
    const cancelled = new Pending<Cancelled>()
    this.#cancelled = cancelled.limit(CANCELLED_MS, () => cancelled.resolve('cancelled'))
    return await cancelled.answer
  }

  /** What is under way is told to end. */
  close(): void {
    this.#requests.close(`process ${process.pid} ends`)
  }

  /** What generations that drain forward, through the daemon. */
  #writesOf(link: Link | undefined): WriteReceiver | null {
    if (link === undefined) return null
    if (this.#writes?.link !== link)
      this.#writes = { link, receiver: new WriteReceiver(this.#state, body => link.tell(body)) }
    return this.#writes.receiver
  }
}
