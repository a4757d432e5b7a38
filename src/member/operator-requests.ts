import { Pending } from '../channel/pending.js'
import type { FdbError } from '../errors.js'
import type { Cancelled } from '../holder/cancel.js'
import { failedReply, readCommand, repliedWith } from '../holder/command.js'
import type { Upgraded, UpgradeProgress } from '../holder/operator.js'
import type { fdbroker } from '../proto/wire.js'
import type { Link, WireBody, WireEnvelope } from '../protocol/link.js'
import type { MemberPhase } from '../protocol/member-machine.js'
import { remoteError } from '../protocol/remote-error.js'
import type { StateLog } from '../state/state-log.js'
import type { Commands } from './commands.js'
import { WriteReceiver } from './write-receiver.js'

/** A daemon that knows the question answers it at once. */
const CANCELLED_MS = 1_000

/** What the daemon's operators may ask of a member. */
export interface AskedMember {
  readonly commands: Commands
  readonly phase: MemberPhase
  readonly state: StateLog
  status(): object
  upgrade(options: {
    argv: readonly string[]
    signal: AbortSignal
    timeout?: number
    progress: (step: UpgradeProgress) => void
  }): Promise<Upgraded>
}

/** Daemon hosting: what operators asked of the daemon, which passes it on to the member that serves. */
export class OperatorRequests {
  readonly #member: AskedMember
  /** To the daemon; another one when it was lost and come back to. */
  readonly #link: () => Link | undefined
  /** Aborted when the handoff of an upgrade that was asked for has failed. */
  #upgradeOver = new AbortController()
  /** What the daemon says of an upgrade that is not wanted any more. */
  #cancelled: Pending<Cancelled> | null = null
  #writes: { link: Link; receiver: WriteReceiver } | null = null
  /** Aborted when this member lets go of everything. */
  readonly #over = new AbortController()

  constructor(member: AskedMember, link: () => Link | undefined) {
    this.#member = member
    this.#link = link
  }

  /** Whether it was an order. */
  take(envelope: WireEnvelope): boolean {
    const { statusRequest, upgradeRequest, command, write, result, upgradeCancelled } = envelope
    if (statusRequest) this.#link()?.tell({ status: { json: JSON.stringify(this.#member.status()) } })
    else if (upgradeRequest) this.#upgrade(upgradeRequest)
    else if (command) this.#command(command)
    else if (write) this.#writesOf(this.#link())?.take(write)
    else if (upgradeCancelled) this.#cancelled?.resolve(upgradeCancelled.outcome as Cancelled)
    else if (result) {
      // The handoff that the upgrade was for has failed; the daemon has told the operator.
      this.#upgradeOver.abort(remoteError(result, { code: 'ERR_FDB_ABORTED', message: 'the handoff failed' }))
      this.#upgradeOver = new AbortController()
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
    this.#over.abort()
  }

  #upgrade(order: fdbroker.wire.UpgradeRequest.$Properties): void {
    const { timeoutMs, request } = order
    const argv = order.argv ?? []
    const limit = timeoutMs ? { timeout: timeoutMs } : {}
    const { signal } = this.#upgradeOver
    // Not the link that it came by: the answer may be due when the daemon has been come back to.
    const tell = (body: WireBody) => this.#link()?.tell(body)
    this.#member
      .upgrade({ argv, signal, progress: step => tell({ progress: step }), ...limit })
      .then(({ pid, generation }) => tell({ result: { ok: true, pid, generation, request: request ?? 0 } }))
      .catch(({ code, message }) =>
        tell({
          result: {
            ok: false,
            code: code ?? 'ERR_FDB_INTERNAL',
            message: String(message),
            request: request ?? 0,
          },
        }),
      )
  }

  /** What generations that drain forward, through the daemon. */
  #writesOf(link: Link | undefined): WriteReceiver | null {
    if (link === undefined) return null
    if (this.#writes?.link !== link)
      this.#writes = { link, receiver: new WriteReceiver(this.#member.state, body => link.tell(body)) }
    return this.#writes.receiver
  }

  #command(command: NonNullable<WireEnvelope['command']>): void {
    const { order, request } = readCommand(command)
    const { commands, phase } = this.#member
    const link = this.#link()
    commands
      .run(order.name, order.body, { signal: this.#over.signal }, phase)
      .then(reply => link?.tell({ commandReply: repliedWith(request, reply) }))
      .catch(error => link?.tell({ commandReply: failedReply(request, error) }))
  }
}
