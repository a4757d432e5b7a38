import { FdbError } from '../errors.js'
import { tooFewFor } from '../os/limits.js'
import type { BundleItem } from '../wire/bundle.js'
import { unpackToMember } from '../wire/envelope.js'
import { type Link, remoteError, type WireBody, type WireEnvelope } from '../wire/link.js'
import { type HolderFacts, type HolderLink, REFUSED } from './holder-link.js'
import type { Hosting } from './hosting.js'
import type { Offered, OfferReceiver } from './offer-receiver.js'
import type { Readiness } from './readiness.js'
import type { Shared } from './shared.js'
import { fenced } from './unfit.js'

export interface JoinedHolderParts {
  readonly shared: Shared
  readonly hosting: () => Hosting
  readonly readiness: Readiness
  readonly offers: OfferReceiver
  readonly refuse: (error: FdbError) => void
  /** Owns the items: a way for connections. */
  readonly openWay: (items: BundleItem[]) => void
  /** Newer segments have come. */
  readonly followOn: () => void
}

/** The holder that this process has joined: what it says, and its end, are events of the machine. Owns the link. */
export class JoinedHolder {
  readonly #parts: JoinedHolderParts
  #holder: HolderLink | null = null

  constructor(parts: JoinedHolderParts) {
    this.#parts = parts
  }

  /** Null: nobody came before, or it has nothing to say any more. */
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

  /** Says what needs no answer; nobody hears it where there is no holder. */
  tell(body: WireBody): void {
    this.#holder?.link.tell(body)
  }

  /** Takes the link; an earlier one is left to its owner. */
  attach(holder: HolderLink): void {
    this.#holder = holder
    const { hosting, refuse, shared } = this.#parts
    const { departure, machine } = shared
    let died = false
    const inherit = () => machine.step({ type: 'fate', fate: 'dead', sealed: machine.sealed })
    holder.listen({
      message: envelope => this.#hear(envelope),
      bundle: items => this.#take(items),
      broken: error => {
        departure.because(error)
        refuse(error)
      },
      lost: error => {
        if (error !== null) departure.because(error)
        else if (!machine.member.holds) departure.because(leftEarly(holder.facts.pid))
        machine.step({ type: 'lost' })
        if (died) inherit()
        hosting().lost()
      },
      died: () => {
        died = true
        // What it said last is in the channel and counts: its end comes when that has been read.
        if (!holder.link.open) inherit()
      },
    })
  }

  /** Closes the link: it has released, or this process lets go of everything. */
  detach(): void {
    this.#holder?.close()
    this.#holder = null
  }

  /** Finds out whether it is alive; a fate follows. */
  judge(): void {
    const { departure, machine, shelf } = this.#parts.shared
    const holder = this.#holder
    if (holder === null) {
      // Nobody came before: as if it were dead.
      queueMicrotask(() => machine.step({ type: 'fate', fate: 'dead', sealed: machine.sealed }))
      return
    }
    void holder.fate().then(fate => {
      if (this.#holder !== holder || departure.over) return
      // What it said last is in the channel and counts: it is read to its end, and then its death is told.
      if (fate === 'dead' && holder.link.open && holder.watched) return
      if (fate === 'alive' && shelf.isReleased(machine.member.epoch)) {
        // The message was lost with the channel; the mark in the segment was not.
        machine.step({ type: 'message', message: { kind: 'released' }, sealed: false })
        return
      }
      if (fate === 'alive' && !this.#parts.readiness.served) {
        departure.because(
          new FdbError(
            'ERR_FDB_CHANNEL_CLOSED',
            'the incumbent closed the channel before the commit; it serves on',
          ),
        )
      }
      machine.step({ type: 'fate', fate, sealed: machine.sealed })
    })
  }

  #hear(envelope: WireEnvelope): void {
    const { offers, readiness, refuse, hosting, shared } = this.#parts
    const { departure, machine, settings } = shared
    const { offer, abort, reject: rejected } = envelope
    if (offer) {
      // A daemon counts more exactly what it must hold.
      const short = settings.desk === null ? tooFewFor(offer.descriptors ?? 0, this.facts?.pid ?? 0) : null
      if (short !== null) {
        departure.because(short)
        refuse(short)
        return
      }
      offers.announce(offer)
      readiness.limit(settings.times.ready + (offer.quiesceMs ?? 0) + settings.timeout)
      return
    }
    if (hosting().hear(envelope)) return
    if (rejected) {
      departure.because(remoteError(rejected, REFUSED))
      machine.step({ type: 'refused' })
      return
    }
    if (abort) {
      departure.because(
        remoteError(abort, { code: 'ERR_FDB_ABORTED', message: 'the incumbent ended the handoff' }),
      )
    }
    const message = unpackToMember(envelope)
    if (message !== null) this.#obey(message)
  }

  #obey(message: NonNullable<ReturnType<typeof unpackToMember>>): void {
    const { hosting, shared } = this.#parts
    const { departure, machine, shelf, unfitness } = shared
    // Turned away from because it could not begin: that is why.
    if (message.kind === 'fenced' && unfitness.cause === null)
      departure.becauseFenced(fenced(machine.member.epoch))
    if (message.kind === 'retire') departure.hear('retire')
    else if (message.kind === 'resume' || message.kind === 'reinstate') departure.hear('resume')
    else if (message.kind === 'released') hosting().heardReleased()
    const epoch = 'epoch' in message ? message.epoch : machine.member.epoch
    machine.step({ type: 'message', message, sealed: shelf.isSealed(epoch) })
  }

  #take(items: BundleItem[]): void {
    const { followOn, offers, openWay, readiness, refuse, shared } = this.#parts
    const { machine, settings, shelf, timing } = shared
    if (items.some(({ role }) => role === 'moveChannel')) {
      openWay(items)
      return
    }
    let offer: Offered | null
    try {
      offer = offers.take(items)
    } catch (error) {
      settings.logger.warn({ err: error }, 'the holder sent what cannot be taken')
      refuse(FdbError.is(error) ? error : new FdbError('ERR_FDB_INTERNAL', String(error)))
      return
    }
    if (offer === null) {
      shelf.prune(machine.member.epoch)
      followOn()
      return
    }
    machine.step({ type: 'message', message: { kind: 'offer', ...offer }, sealed: false })
    timing.note('offered')
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
