import { FdbError } from '../../errors.js'
import type { EventLog } from '../../events/event-log.js'
import { type Entry, isEntryItem, parseEntry } from '../../holder/entry.js'
import type { OfferEpochs } from '../../holder/offer-sender.js'
import type { Registry } from '../../holder/registry.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { closeAll, type OwnedFd } from '../../kernel/index.js'
import { tooFewDescriptors } from '../../os/limits.js'
import { type DeathWatch, watchDeathDirectly } from '../../os/liveness.js'
import { Segment } from '../../state/segment.js'
import type { BundleItem } from '../../wire/bundle.js'
import type { WireEnvelope } from '../../wire/link.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Settings } from '../options/options.js'
import type { ControlSocket } from './control-socket.js'

type Offer = NonNullable<WireEnvelope['offer']>

interface OfferReceiverDeps {
  readonly settings: Settings
  readonly machine: Machine
  readonly registry: Registry
  readonly segmentSet: SegmentSet
  /** Own the descriptors that they adopt. */
  readonly adopted: {
    readonly control: Pick<ControlSocket, 'adopt'>
    readonly events: Pick<EventLog, 'adopt' | 'items'>
  }
  readonly events: OfferEvents
}

interface OfferEvents {
  /** An Offer will arrive, and this process must be ready within this time. */
  announced(limitMs: number): void
  /** The descriptors of the Offer are complete. */
  offered(): void
  /** Segments have arrived without an Offer. */
  newerSegments(): void
  /** Called with each entry that the incumbent registered after the Offer. Owns the descriptor. */
  late(entry: Entry): void
  refused(error: FdbError): void
}

/** Distributes the descriptors that a holder sends, and checks that an Offer is complete. */
export class OfferReceiver {
  readonly #deps: OfferReceiverDeps
  /** The pidfds of the daemon's other members that live. This process sends them to a restarted daemon, which needs them. */
  readonly #pidfds = new Map<OwnedFd, DeathWatch>()
  #offer: (OfferEpochs & { readonly items: number }) | null = null

  constructor(deps: OfferReceiverDeps) {
    this.#deps = deps
  }

  /** `incumbent`: pid of the process that makes the Offer. */
  announce({ epoch, wayBack, source, items, descriptors, quiesceMs }: Offer, incumbent: number): void {
    const { events, settings } = this.#deps
    // A joining daemon skips this check, because it compares its limit of open files with its services' needs before ready().
    const short = settings.reception === null ? tooFewDescriptors(descriptors ?? 0, incumbent) : null
    if (short !== null) {
      events.refused(short)
      return
    }
    this.#offer = { epoch: epoch ?? 0, wayBack: wayBack ?? 0, source: source ?? 0, items: items ?? 0 }
    events.announced(settings.times.ready + (quiesceMs ?? 0) + settings.timeout)
  }

  /** Owns the bundle: an Offer, newer segments, or a late entry. Refuses the handoff if it cannot be accepted. */
  receive(items: readonly BundleItem[]): void {
    const { events, machine, segmentSet, settings } = this.#deps
    let offer: OfferEpochs | null
    try {
      offer = this.#accept(items)
    } catch (error) {
      settings.logger.warn(
        { err: error },
        'the process at the control socket sent descriptors that cannot be accepted: this process refuses the handoff',
      )
      events.refused(FdbError.is(error) ? error : new FdbError('ERR_FDB_INTERNAL', String(error)))
      return
    }
    if (offer === null) {
      segmentSet.prune(machine.member.epoch)
      events.newerSegments()
      return
    }
    machine.step({ type: 'message', message: { kind: 'offer', ...offer }, sealed: false })
    events.offered()
  }

  /** Returns what this process has received from its holder, for a restarted one. Borrowed. */
  held(): BundleItem[] {
    const { adopted, registry, segmentSet } = this.#deps
    const segments = segmentSet.all.map(segment => ({
      role: 'segment' as const,
      epoch: segment.epoch,
      writable: segmentSet.isWritable(segment.epoch),
      fd: segment.fd,
    }))
    const pidfds = [...this.#pidfds.keys()].map(fd => ({ role: 'pidfd' as const, fd }))
    const wanted = registry.items().filter(({ name }) => registry.wanted.has(name ?? ''))
    return [...wanted, ...segments, ...pidfds, ...adopted.events.items()]
  }

  /** Returns the announced Offer, or null if none was announced. Throws ERR_FDB_FDS_MISSING if descriptors are missing. */
  #accept(items: readonly BundleItem[]): OfferEpochs | null {
    const remaining = [...items]
    try {
      for (let item = remaining.shift(); item !== undefined; item = remaining.shift()) this.#add(item)
    } catch (error) {
      closeAll(remaining.map(item => item.fd))
      throw error
    }
    if (this.#offer === null) return null
    const { items: announced, ...offer } = this.#offer
    this.#offer = null
    const missing = [offer.epoch, offer.wayBack].filter(epoch => !this.#deps.segmentSet.isWritable(epoch))
    if (announced === items.length && missing.length === 0) return offer
    const lacks = missing.length > 0 ? `, without the writable segments ${missing.join(' and ')}` : ''
    throw new FdbError(
      'ERR_FDB_FDS_MISSING',
      `the offer names ${announced} descriptors and arrived with ${items.length}${lacks}: the incumbent is faulty; the handoff is refused`,
    )
  }

  close(): void {
    for (const [pidfd, watch] of this.#pidfds) {
      watch.close()
      pidfd.close()
    }
    this.#pidfds.clear()
  }

  /** Keeps a pidfd until its process ends; closes what cannot be watched. Owns it. */
  #keepPidfd(pidfd: OwnedFd): void {
    const ended = () => {
      this.#pidfds.delete(pidfd)
      pidfd.close()
    }
    try {
      const watch = watchDeathDirectly(pidfd, ended)
      watch.unref()
      this.#pidfds.set(pidfd, watch)
    } catch {
      pidfd.close()
    }
  }

  #add(item: BundleItem): void {
    const { adopted, events, machine, registry, segmentSet } = this.#deps
    if (isEntryItem(item)) {
      const entry = parseEntry(item, item.fd)
      if (this.#offer === null) events.late(entry)
      else registry.put(entry)
      return
    }
    const { role, spec = '', writable = false, fd } = item
    switch (role) {
      case 'segment': {
        const segment = Segment.open(fd)
        segmentSet.put(segment, writable)
        // No epoch may be used twice.
        machine.step({ type: 'shared', top: segment.epoch })
        return
      }
      case 'pidfd':
        this.#keepPidfd(fd)
        return
      case 'control':
        adopted.control.adopt({ listener: fd, spec })
        return
      case 'lock':
        adopted.control.adopt({ lock: fd })
        return
      case 'reservation':
        adopted.control.adopt({ reservation: fd })
        return
      case 'events':
        adopted.events.adopt(fd)
        return
      default:
        fd.close()
    }
  }
}
