import { FdbError } from '../errors.js'
import type { OfferEpochs } from '../holder/sharing.js'
import { tooFewDescriptors } from '../os/limits.js'
import type { BundleItem } from '../wire/bundle.js'
import { unpackToMember } from '../wire/envelope.js'
import { type Link, remoteError, type WireBody, type WireEnvelope } from '../wire/link.js'
import { fencedError } from './cannot-serve.js'
import { type HolderFacts, type HolderLink, REFUSED } from './holder-link.js'
import type { Hosting } from './hosting.js'
import type { MemberContext } from './member-context.js'
import type { OfferReceiver } from './offer-receiver.js'
import type { Readiness } from './readiness.js'

export interface JoinedHolderDeps {
  readonly shared: MemberContext
  readonly hosting: () => Hosting
  readonly readiness: Readiness
  readonly offers: OfferReceiver
  readonly refuse: (error: FdbError) => void
  /** Owns the items. */
  readonly acceptMoveChannel: (items: BundleItem[]) => void
  readonly followOn: () => void
}

/** The holder that this process has joined. Passes the holder's messages and its end to the state machine as events. Owns the link. */
export class JoinedHolder {
  readonly #deps: JoinedHolderDeps
  #holder: HolderLink | null = null
  #keepsAlive = true

  constructor(deps: JoinedHolderDeps) {
    this.#deps = deps
  }

  /** The facts of the holder. Null if there was none, or its link was closed. */
  get facts(): HolderFacts | null {
    return this.#holder?.facts ?? null
  }

  /** Null like {@link facts}. Replaced by a new one after a reconnect. */
  get holder(): HolderLink | null {
    return this.#holder
  }

  get link(): Link | undefined {
    return this.#holder?.link
  }

  /** Sends a message without an answer; dropped if there is no holder. */
  post(body: WireBody): void {
    this.#holder?.link.post(body)
  }

  /** Owns the link. The caller closes an earlier one. */
  attach(holder: HolderLink): void {
    this.#holder = holder
    this.keepAlive(this.#keepsAlive)
    const { hosting, refuse, shared } = this.#deps
    const { shutdown, machine } = shared
    let died = false
    const reportDeath = () => machine.step({ type: 'fate', fate: 'dead', sealed: machine.sealed })
    holder.listen({
      message: envelope => this.#handle(envelope),
      bundle: items => this.#adopt(items),
      broken: error => {
        shutdown.recordReason(error)
        refuse(error)
      },
      lost: error => {
        if (error !== null) shutdown.recordReason(error)
        else if (!machine.member.holds) shutdown.recordReason(leftEarly(holder.facts.pid))
        machine.step({ type: 'lost' })
        if (died) reportDeath()
        hosting().onLost?.()
      },
      died: () => {
        died = true
        // Read the holder's last messages first; then `lost` follows.
        if (!holder.link.open) reportDeath()
      },
    })
  }

  /** Sets whether the link keeps the process alive. Default true. */
  keepAlive(on: boolean): void {
    this.#keepsAlive = on
    const channel = this.#holder?.link.channel
    if (on) channel?.ref()
    else channel?.unref()
  }

  /** Closes the link: the holder has released this process, or this process ends. */
  detach(): void {
    this.#holder?.close()
    this.#holder = null
  }

  /** Finds out whether the holder is alive; the event `fate` follows. */
  judge(): void {
    const { shutdown, machine, segmentSet } = this.#deps.shared
    const holder = this.#holder
    if (holder === null) {
      // There is no previous process: take over as if it had died.
      queueMicrotask(() => machine.step({ type: 'fate', fate: 'dead', sealed: machine.sealed }))
      return
    }
    void holder.fate().then(fate => {
      if (this.#holder !== holder || shutdown.over) return
      // Read the holder's last messages first; then the death is reported.
      if (fate === 'dead' && holder.link.open && holder.watched) return
      if (fate === 'alive' && segmentSet.isReleased(machine.member.epoch)) {
        // The message Released was lost with the channel; the mark in the segment means the same.
        machine.step({ type: 'message', message: { kind: 'released' }, sealed: false })
        return
      }
      if (fate === 'alive' && !this.#deps.readiness.served) {
        shutdown.recordReason(
          new FdbError(
            'ERR_FDB_CHANNEL_CLOSED',
            'the incumbent closed the channel before the commit; it continues to serve',
          ),
        )
      }
      machine.step({ type: 'fate', fate, sealed: machine.sealed })
    })
  }

  #handle(envelope: WireEnvelope): void {
    const { offers, readiness, refuse, hosting, shared } = this.#deps
    const { shutdown, machine, settings } = shared
    const { offer, abort, reject: rejected } = envelope
    if (offer) {
      // A daemon does not need this check: it counts the descriptors of its services itself.
      const short =
        settings.reception === null ? tooFewDescriptors(offer.descriptors ?? 0, this.facts?.pid ?? 0) : null
      if (short !== null) {
        shutdown.recordReason(short)
        refuse(short)
        return
      }
      offers.announce(offer)
      readiness.limit(settings.times.ready + (offer.quiesceMs ?? 0) + settings.timeout)
      return
    }
    if (hosting().handle?.(envelope)) return
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
    if (message !== null) this.#handleMessage(message)
  }

  #handleMessage(message: NonNullable<ReturnType<typeof unpackToMember>>): void {
    const { hosting, shared } = this.#deps
    const { shutdown, machine, segmentSet, cannotServe } = shared
    // An unfit process keeps its own reason.
    if (message.kind === 'fenced' && cannotServe.cause === null)
      shutdown.replaceReason(fencedError(machine.member.epoch))
    if (message.kind === 'retire') shutdown.handleVerdict('retire')
    else if (message.kind === 'resume' || message.kind === 'reinstate') shutdown.handleVerdict('resume')
    else if (message.kind === 'released') hosting().onReleased?.()
    const epoch = 'epoch' in message ? message.epoch : machine.member.epoch
    machine.step({ type: 'message', message, sealed: segmentSet.isSealed(epoch) })
  }

  #adopt(items: BundleItem[]): void {
    const { acceptMoveChannel, followOn, offers, readiness, refuse, shared } = this.#deps
    const { machine, settings, segmentSet, timing } = shared
    if (items.some(({ role }) => role === 'moveChannel')) {
      acceptMoveChannel(items)
      return
    }
    let offer: OfferEpochs | null
    try {
      offer = offers.accept(items)
    } catch (error) {
      settings.logger.warn(
        { err: error },
        'the process at the control socket sent descriptors that cannot be accepted: this process refuses the handoff',
      )
      refuse(FdbError.is(error) ? error : new FdbError('ERR_FDB_INTERNAL', String(error)))
      return
    }
    if (offer === null) {
      segmentSet.prune(machine.member.epoch)
      followOn()
      return
    }
    machine.step({ type: 'message', message: { kind: 'offer', ...offer }, sealed: false })
    timing.record('offered')
    readiness.offer.resolve()
  }
}

function leftEarly(pid: number): FdbError {
  return new FdbError(
    'ERR_FDB_CHANNEL_CLOSED',
    `process ${pid} left before it handed anything over: try again`,
    { retryable: true },
  )
}
