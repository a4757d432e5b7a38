import { FdbError } from '../../errors.js'
import { type Entry, isEntryItem, parseEntry } from '../../holder/entry.js'
import type { OfferEpochs } from '../../holder/offer-sender.js'
import type { Registry } from '../../holder/registry.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { closeAll, type OwnedFd } from '../../kernel/index.js'
import { Segment } from '../../state/segment.js'
import type { BundleItem } from '../../wire/bundle.js'
import type { WireEnvelope } from '../../wire/link.js'
import type { Machine } from '../lifecycle/machine.js'
import type { ControlSocket } from './control-socket.js'

interface OfferReceiverDeps {
  readonly machine: Machine
  readonly registry: Registry
  readonly segmentSet: SegmentSet
  readonly controlSocket: Pick<ControlSocket, 'adopt'>
  /** Called with each entry that the incumbent registered after the Offer. Owns the descriptor. */
  readonly late: (entry: Entry) => void
}

/** Distributes the descriptors that a holder sends, and checks that an Offer is complete. */
export class OfferReceiver {
  readonly #deps: OfferReceiverDeps
  /** The pidfds of the daemon's other members. This process sends them to a restarted daemon, which needs them. */
  readonly pidfds: OwnedFd[] = []
  #offer: (OfferEpochs & { readonly items: number }) | null = null

  constructor(deps: OfferReceiverDeps) {
    this.#deps = deps
  }

  announce({ epoch, wayBack, source, items }: NonNullable<WireEnvelope['offer']>): void {
    this.#offer = { epoch: epoch ?? 0, wayBack: wayBack ?? 0, source: source ?? 0, items: items ?? 0 }
  }

  /** Owns the bundle. Returns the announced Offer, or null if none was announced. Throws ERR_FDB_FDS_MISSING if descriptors are missing. */
  accept(items: readonly BundleItem[]): OfferEpochs | null {
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
    closeAll(this.pidfds.splice(0))
  }

  #add(item: BundleItem): void {
    const { controlSocket, late, machine, registry, segmentSet } = this.#deps
    if (isEntryItem(item)) {
      const entry = parseEntry(item, item.fd)
      if (this.#offer === null) late(entry)
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
        this.pidfds.push(fd)
        return
      case 'control':
        controlSocket.adopt({ listener: fd, spec })
        return
      case 'lock':
        controlSocket.adopt({ lock: fd })
        return
      case 'reservation':
        controlSocket.adopt({ reservation: fd })
        return
      default:
        fd.close()
    }
  }
}
