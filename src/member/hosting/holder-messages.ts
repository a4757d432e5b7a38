import type { MemberState } from '../../handoff/member-machine.js'
import type { BundleItem } from '../../wire/bundle.js'
import { unpackToMember } from '../../wire/envelope.js'
import { REFUSED, remoteError, type WireEnvelope } from '../../wire/link.js'
import type { DrainOrders } from '../drain/drain-orders.js'
import { fencedError } from '../lifecycle/cannot-serve.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Leadership } from '../lifecycle/leadership.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { OfferReceiver } from './offer-receiver.js'

interface HolderMessagesDeps {
  readonly machine: Pick<Machine, 'isSealed' | 'sealed' | 'step'> & {
    readonly member: Pick<MemberState, 'epoch' | 'phase'>
  }
  readonly shutdown: Pick<Shutdown, 'cannotServe' | 'handleVerdict' | 'recordReason' | 'replaceReason'>
  readonly leadership: Pick<Leadership, 'quiesce'>
  readonly hosting: () => Pick<Hosting, 'handle' | 'onGivenUp' | 'onOffer' | 'onReleased'>
  readonly offers: Pick<OfferReceiver, 'announce' | 'receive'>
  readonly orders: Pick<DrainOrders, 'handle' | 'openChannel'>
}

/** Passes the joined holder's messages and descriptors to the state machine, and to the parts of the member that they concern. */
export class HolderMessages {
  readonly #deps: HolderMessagesDeps

  constructor(deps: HolderMessagesDeps) {
    this.#deps = deps
  }

  /** `holder`: pid of the holder. */
  message(envelope: WireEnvelope, holder: number): void {
    const { orders, machine, offers, shutdown } = this.#deps
    const { offer, abort, reject: rejected } = envelope
    if (offer) {
      this.#deps.hosting().onOffer?.(offer.served ?? false)
      offers.announce(offer, holder)
      return
    }
    if (orders.handle(envelope) || this.#deps.hosting().handle?.(envelope)) return
    if (rejected) {
      shutdown.recordReason(remoteError(rejected, REFUSED))
      machine.step({ type: 'refused' })
      return
    }
    if (abort) {
      shutdown.recordReason(
        remoteError(abort, { code: 'ERR_FDB_ABORTED', message: 'the incumbent ended the handoff' }),
      )
    }
    const message = unpackToMember(envelope)
    if (message !== null) this.#pass(message, envelope)
  }

  /** Owns the items. */
  bundle(items: BundleItem[]): void {
    if (!this.#deps.orders.openChannel(items)) this.#deps.offers.receive(items)
  }

  #pass(message: NonNullable<ReturnType<typeof unpackToMember>>, { retire, released }: WireEnvelope): void {
    const { leadership, machine, shutdown } = this.#deps
    // An unfit process has already recorded why it cannot serve, and a joiner why it has lost the channel.
    if (message.kind === 'fenced' && shutdown.cannotServe.cause === null) {
      const { epoch, phase } = machine.member
      if (phase === 'joining' || phase === 'ready') shutdown.recordReason(fencedError(epoch))
      else shutdown.replaceReason(fencedError(epoch))
    }
    // Another process serves; the state machine may first find out whether that one has died meanwhile.
    if (message.kind === 'fenced' && machine.sealed) void leadership.quiesce()
    if (retire || released) this.#deps.hosting().onGivenUp?.((retire ?? released)?.givenUp ?? [])
    if (message.kind === 'retire') shutdown.handleVerdict('retire')
    else if (message.kind === 'resume' || message.kind === 'reinstate') shutdown.handleVerdict('resume')
    else if (message.kind === 'released') this.#deps.hosting().onReleased?.()
    const epoch = 'epoch' in message ? message.epoch : machine.member.epoch
    machine.step({ type: 'message', message, sealed: machine.isSealed(epoch) })
  }
}
