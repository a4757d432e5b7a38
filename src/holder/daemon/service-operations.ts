import { FdbError } from '../../errors.js'
import type {
  CommandContext,
  CommandOrder,
  Operations,
  Upgraded,
  UpgradeOrder,
  UpgradeProgress,
} from '../../operator/requests.js'
import { ROLLBACK } from '../../operator/service-commands.js'
import type { Failure } from '../../operator/status-report.js'
import type { WireEnvelope } from '../../protocol/link.js'
import type { Holder } from '../holder.js'
import { STUCK_MS } from '../kill-stuck.js'
import type { Peer } from '../peer.js'
import type { HandoffTimes } from '../times.js'
import { ForwardedCommands } from './forwarded-commands.js'
import { ForwardedUpgrades } from './forwarded-upgrades.js'
import { StatusQuestion } from './status-question.js'

/** What a service lets its operators do. */
export interface OperatedService {
  readonly name: string
  readonly times: HandoffTimes
  readonly holder: Holder
  /** Who has the right to write, or had it last. */
  owner(): Peer | undefined
  /** Who could come back in its place, and can be told to. */
  standby(): Peer | undefined
  /** The status, in the words of the member that serves, if there are any. */
  describe(answer: Record<string, unknown> | null): object
}

/** What a daemon's operators ask of one service, which the member that serves it answers. */
export class ServiceOperations implements Operations {
  readonly #service: OperatedService
  readonly #statusQuestion = new StatusQuestion()
  readonly #commands = new ForwardedCommands()
  readonly #upgrades: ForwardedUpgrades

  constructor(service: OperatedService) {
    this.#service = service
    this.#upgrades = new ForwardedUpgrades(service.times)
  }

  async status(): Promise<object> {
    const asked = this.#service.owner()
    const answer = asked === undefined ? null : await this.#statusQuestion.ask(asked)
    // All else as it is in one moment.
    return this.#service.describe(this.#service.owner() === asked ? answer : null)
  }

  /** Has the member that serves start its successor, which joins here. */
  async upgrade(
    order: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
  ): Promise<Upgraded> {
    const { name, holder } = this.#service
    if (order.killStuck) {
      await holder.killStuck(STUCK_MS)
      const ended = await holder.killSilentOwner(STUCK_MS)
      if (ended !== null) {
        throw new FdbError(
          'ERR_FDB_BUSY',
          `${name}: process ${ended}, which served, was silent and is ended; its listeners and its state are kept here: start the next version`,
          { retryable: true },
        )
      }
    }
    const owner = this.#owner
    if (!owner.link.open || this.#upgrades.has(owner))
      throw new FdbError('ERR_FDB_BUSY', `${name}: process ${owner.pid} cannot be asked now`, {
        retryable: true,
      })
    return await this.#upgrades.ask(owner, order, progress, cancel)
  }

  /** Has the member that serves answer it. */
  async command(order: CommandOrder, context: CommandContext): Promise<Uint8Array> {
    const { name, standby } = this.#service
    // The member cannot know for certain: what it hands back somebody has to take.
    if (order.name === ROLLBACK && standby() === undefined) {
      throw new FdbError(
        'ERR_FDB_NO_STANDBY',
        `${name}: nobody stands by for the member that serves: its probation is over, or it was the first. Upgrade to the release before: fd-broker upgrade -- COMMAND`,
      )
    }
    return await this.#commands.ask(this.#owner, order, context)
  }

  /** A message of a member; whether it was an answer, or a part of one. */
  answered(peer: Peer, { status, progress, commandReply, result }: WireEnvelope): boolean {
    if (status) this.#statusQuestion.answered(peer, status.json ?? '')
    else if (progress) this.#upgrades.progressed(peer, progress)
    else if (commandReply) this.#commands.answered(peer, commandReply)
    else if (result) this.#upgrades.answered(peer, result)
    else return false
    return true
  }

  /** A handoff has failed. */
  failed(failure: Failure): void {
    this.#upgrades.failed(failure)
  }

  /** This member is gone. */
  forget(peer: Peer): void {
    this.#statusQuestion.forget(peer)
    this.#commands.forget(peer)
    this.#upgrades.forget(peer)
  }

  /** Throws when nobody can be asked. */
  get #owner(): Peer {
    const owner = this.#service.owner()
    if (owner !== undefined) return owner
    throw new FdbError('ERR_FDB_BUSY', `${this.#service.name}: no member serves: start one`, {
      retryable: true,
    })
  }
}
