import { sendsBack } from '../../handoff/member-machine.js'
import type { ToHolder } from '../../handoff/messages.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Settings } from '../options/options.js'
import type { JoinedHolder } from './joined-holder.js'
import type { OfferReceiver } from './offer-receiver.js'

interface BackSenderDeps {
  readonly settings: Pick<Settings, 'logger' | 'timeout'>
  readonly machine: Pick<Machine, 'phase' | 'step'>
  readonly segmentSet: Pick<SegmentSet, 'top'>
  readonly hosting: Pick<Hosting, 'onBackSent'>
  readonly joined: Pick<JoinedHolder, 'link'>
  readonly offers: Pick<OfferReceiver, 'held'>
}

/** Sends Back to a holder to which this process has connected again. */
export class BackSender {
  readonly #deps: BackSenderDeps

  constructor(deps: BackSenderDeps) {
    this.#deps = deps
  }

  /**
   * Sends the descriptors before Back, because at Back the holder decides which process serves. A process that leaves meanwhile has sent Gone: Back
   * after it would give the right to serve to this process.
   */
  send({ role, epoch, sealed, unfit = false }: Extract<ToHolder, { kind: 'back' }>): void {
    const { hosting, joined, machine, offers, segmentSet, settings } = this.#deps
    const link = joined.link
    link
      ?.sendBundle(offers.held(), settings.timeout)
      .then(async () => {
        if (!sendsBack(machine.phase)) return
        await link.send({ back: { role, epoch, sealed, top: segmentSet.top, unfit } })
        hosting.onBackSent?.(link)
      })
      .catch(error => {
        // Another link has replaced this one, or this process has left.
        if (joined.link !== link) return
        settings.logger.warn(
          { err: error },
          'the process at the control socket did not accept the descriptors of this process: connecting again',
        )
        machine.step({ type: 'failed', effect: 'back' })
      })
  }
}
