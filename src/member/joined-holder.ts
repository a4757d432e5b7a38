import { FdbError } from '../errors.js'
import type { OfferEpochs } from '../holder/sharing.js'
import { tooFewDescriptors } from '../os/limits.js'
import type { BundleItem } from '../wire/bundle.js'
import { unpackToMember } from '../wire/envelope.js'
import { type Link, remoteError, type WireBody, type WireEnvelope } from '../wire/link.js'
import { fenced } from './cannot-serve.js'
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
  /** Owns the items: a way for connections. */
  readonly acceptMigrationChannel: (items: BundleItem[]) => void
  /** Newer segments have come. */
  readonly followOn: () => void
}

/** The holder that this process has joined: what it says, and its end, are events of the machine. Owns the link. */
export class JoinedHolder {
  readonly #deps: JoinedHolderDeps
  #holder: HolderLink | null = null
  #keepsAlive = true

  constructor(deps: JoinedHolderDeps) {
    this.#deps = deps
  }

  /** Null: there was no process before, or it has nothing to say any more. */
  get facts(): HolderFacts | null {
    return this.#holder?.facts ?? null
  }

  /** Null as {@link facts}. Another one when it was lost and come back to. */
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

  /** Takes the link; an earlier one is left to its owner. */
  attach(holder: HolderLink): void {
    this.#holder = holder
    this.keepAlive(this.#keepsAlive)
    const { hosting, refuse, shared } = this.#deps
    const { shutdown, machine } = shared
    let died = false
    const inherit = () => machine.step({ type: 'fate', fate: 'dead', sealed: machine.sealed })
    holder.listen({
      message: envelope => this.#handle(envelope),
      bundle: items => this.#adopt(items),
      broken: error => {
        shutdown.because(error)
        refuse(error)
      },
      lost: error => {
        if (error !== null) shutdown.because(error)
        else if (!machine.member.holds) shutdown.because(leftEarly(holder.facts.pid))
        machine.step({ type: 'lost' })
        if (died) inherit()
        hosting().lost?.()
      },
      died: () => {
        died = true
        // Its last messages are in the channel and count: its end follows when they have been read.
        if (!holder.link.open) inherit()
      },
    })
  }

  /** Whether the link keeps the process alive (it does at first). */
  keepAlive(on: boolean): void {
    this.#keepsAlive = on
    const channel = this.#holder?.link.channel
    if (on) channel?.ref()
    else channel?.unref()
  }

  /** Closes the link: it has released, or this process lets go of everything. */
  detach(): void {
    this.#holder?.close()
    this.#holder = null
  }

  /** Finds out whether it is alive; a fate follows. */
  judge(): void {
    const { shutdown, machine, segmentSet } = this.#deps.shared
    const holder = this.#holder
    if (holder === null) {
      // There was no process before: as if it were dead.
      queueMicrotask(() => machine.step({ type: 'fate', fate: 'dead', sealed: machine.sealed }))
      return
    }
    void holder.fate().then(fate => {
      if (this.#holder !== holder || shutdown.over) return
      // Its last messages are in the channel and count: it is read to its end, and then its death is told.
      if (fate === 'dead' && holder.link.open && holder.watched) return
      if (fate === 'alive' && segmentSet.isReleased(machine.member.epoch)) {
        // The message was lost with the channel; the mark in the segment was not.
        machine.step({ type: 'message', message: { kind: 'released' }, sealed: false })
        return
      }
      if (fate === 'alive' && !this.#deps.readiness.served) {
        shutdown.because(
          new FdbError(
            'ERR_FDB_CHANNEL_CLOSED',
            'the incumbent closed the channel before the commit; it serves on',
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
      // A daemon counts more exactly what it must hold.
      const short =
        settings.reception === null ? tooFewDescriptors(offer.descriptors ?? 0, this.facts?.pid ?? 0) : null
      if (short !== null) {
        shutdown.because(short)
        refuse(short)
        return
      }
      offers.announce(offer)
      readiness.limit(settings.times.ready + (offer.quiesceMs ?? 0) + settings.timeout)
      return
    }
    if (hosting().handle?.(envelope)) return
    if (rejected) {
      shutdown.because(remoteError(rejected, REFUSED))
      machine.step({ type: 'refused' })
      return
    }
    if (abort) {
      shutdown.because(
        remoteError(abort, { code: 'ERR_FDB_ABORTED', message: 'the incumbent ended the handoff' }),
      )
    }
    const message = unpackToMember(envelope)
    if (message !== null) this.#obey(message)
  }

  #obey(message: NonNullable<ReturnType<typeof unpackToMember>>): void {
    const { hosting, shared } = this.#deps
    const { shutdown, machine, segmentSet, unfitness } = shared
    // Turned away from because it could not begin: that is why.
    if (message.kind === 'fenced' && unfitness.cause === null)
      shutdown.becauseFenced(fenced(machine.member.epoch))
    if (message.kind === 'retire') shutdown.handleVerdict('retire')
    else if (message.kind === 'resume' || message.kind === 'reinstate') shutdown.handleVerdict('resume')
    else if (message.kind === 'released') hosting().heardReleased?.()
    const epoch = 'epoch' in message ? message.epoch : machine.member.epoch
    machine.step({ type: 'message', message, sealed: segmentSet.isSealed(epoch) })
  }

  #adopt(items: BundleItem[]): void {
    const {
      followOn,
      offers,
      acceptMigrationChannel: openMigrationChannel,
      readiness,
      refuse,
      shared,
    } = this.#deps
    const { machine, settings, segmentSet, timing } = shared
    if (items.some(({ role }) => role === 'moveChannel')) {
      openMigrationChannel(items)
      return
    }
    let offer: OfferEpochs | null
    try {
      offer = offers.accept(items)
    } catch (error) {
      settings.logger.warn(
        { err: error },
        'the process at the control socket sent a message that cannot be taken',
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
    readiness.offered()
  }
}

function leftEarly(pid: number): FdbError {
  return new FdbError(
    'ERR_FDB_CHANNEL_CLOSED',
    `process ${pid} left before it had handed anything over: try again`,
    { retryable: true },
  )
}
