import { FdbError } from '../../errors.js'
import type { MemberState } from '../../handoff/member-machine.js'
import type { OfferEpochs } from '../../holder/offer-sender.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { tooFewDescriptors } from '../../os/limits.js'
import type { BundleItem } from '../../wire/bundle.js'
import { unpackToMember } from '../../wire/envelope.js'
import { type Link, REFUSED, remoteError, type WireBody, type WireEnvelope } from '../../wire/link.js'
import type { Moves } from '../drain/moves.js'
import type { CannotServe } from '../lifecycle/cannot-serve.js'
import { fencedError } from '../lifecycle/cannot-serve.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Leadership } from '../lifecycle/leadership.js'
import type { Machine } from '../lifecycle/machine.js'
import type { Readiness } from '../lifecycle/readiness.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { TakeoverTiming } from '../lifecycle/takeover-timing.js'
import type { Settings } from '../options/options.js'
import type { HolderFacts, HolderLink } from './holder-link.js'
import type { OfferReceiver } from './offer-receiver.js'

interface JoinedHolderDeps {
  readonly settings: Pick<Settings, 'logger' | 'reception' | 'timeout' | 'times'>
  readonly machine: Pick<Machine, 'sealed' | 'step'> & {
    readonly member: Pick<MemberState, 'epoch' | 'holds' | 'phase'>
  }
  readonly shutdown: Pick<Shutdown, 'handleVerdict' | 'over' | 'recordReason' | 'replaceReason'>
  readonly segmentSet: Pick<SegmentSet, 'isReleased' | 'isSealed' | 'prune'>
  readonly timing: Pick<TakeoverTiming, 'record'>
  readonly cannotServe: Pick<CannotServe, 'cause'>
  readonly readiness: Pick<Readiness, 'limit' | 'offer' | 'served'>
  readonly leadership: Pick<Leadership, 'quiesce'>
  readonly moves: Pick<Moves, 'open'>
  readonly hosting: () => Pick<Hosting, 'handle' | 'onLost' | 'onReleased'>
  readonly offers: Pick<OfferReceiver, 'accept' | 'announce'>
  readonly refuse: (error: FdbError) => void
  readonly followOn: () => void
}

/** Passes the joined holder's messages, and the loss of its link, to the state machine. Owns the link. */
export class JoinedHolder {
  readonly #deps: JoinedHolderDeps
  #holder: HolderLink | null = null
  #keepsAlive = true

  constructor(deps: JoinedHolderDeps) {
    this.#deps = deps
  }

  /** Null if this process has joined no holder, or has closed the link. */
  get facts(): HolderFacts | null {
    return this.#holder?.facts ?? null
  }

  /** Null if {@link facts} is null. A reconnect replaces the link. */
  get holder(): HolderLink | null {
    return this.#holder
  }

  get link(): Link | undefined {
    return this.#holder?.link
  }

  /** Sends a message that gets no answer, or drops it if there is no holder. */
  post(body: WireBody): void {
    this.#holder?.link.post(body)
  }

  /** Owns `holder`. The caller closes the previous link. */
  attach(holder: HolderLink): void {
    this.#holder = holder
    this.keepAlive(this.#keepsAlive)
    const { machine, refuse, shutdown } = this.#deps
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
        this.#deps.hosting().onLost?.()
      },
      died: () => {
        died = true
        // If the channel is open, its last messages are read first; then `lost` reports the death.
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

  /** Checks whether the holder is alive; the state machine gets the result as event `fate`. */
  judge(): void {
    const { machine, readiness, segmentSet, shutdown } = this.#deps
    const holder = this.#holder
    if (holder === null) {
      // Without a holder, continue as if it had died.
      queueMicrotask(() => machine.step({ type: 'fate', fate: 'dead', sealed: machine.sealed }))
      return
    }
    void holder.fate().then(fate => {
      if (this.#holder !== holder || shutdown.over) return
      // The last messages are read first; then `lost` reports the death.
      if (fate === 'dead' && holder.link.open && holder.watched) return
      if (fate === 'alive' && segmentSet.isReleased(machine.member.epoch)) {
        // The message Released was lost with the channel, but the holder has also marked the segment. Before the Commit the holder marks the
        // segment when it has left the service without another version.
        const { phase } = machine.member
        if (phase === 'joining' || phase === 'ready')
          machine.step({ type: 'fate', fate: 'dead', sealed: machine.sealed })
        else machine.step({ type: 'message', message: { kind: 'released' }, sealed: false })
        return
      }
      if (fate === 'alive' && !readiness.served) {
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
    const { machine, offers, readiness, refuse, settings, shutdown } = this.#deps
    const hosting = this.#deps.hosting()
    const { offer, abort, reject: rejected } = envelope
    if (offer) {
      // A joining daemon skips this check, because it compares its limit of open files with its services' needs before ready().
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
    if (hosting.handle?.(envelope)) return
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
    const { cannotServe, leadership, machine, segmentSet, shutdown } = this.#deps
    const hosting = this.#deps.hosting()
    // An unfit process has already recorded why it cannot serve.
    if (message.kind === 'fenced' && cannotServe.cause === null)
      shutdown.replaceReason(fencedError(machine.member.epoch))
    // Another process serves; the state machine may first find out whether that one has died meanwhile.
    if (message.kind === 'fenced' && machine.sealed) void leadership.quiesce()
    if (message.kind === 'retire') shutdown.handleVerdict('retire')
    else if (message.kind === 'resume' || message.kind === 'reinstate') shutdown.handleVerdict('resume')
    else if (message.kind === 'released') hosting.onReleased?.()
    const epoch = 'epoch' in message ? message.epoch : machine.member.epoch
    machine.step({ type: 'message', message, sealed: segmentSet.isSealed(epoch) })
  }

  #adopt(items: BundleItem[]): void {
    const { followOn, machine, moves, offers, readiness, refuse, segmentSet, settings, timing } = this.#deps
    if (items.some(({ role }) => role === 'moveChannel')) {
      moves.open(items)
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
