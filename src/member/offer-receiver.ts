import { FdbError } from '../errors.js'
import type { Entry, Registry } from '../holder/registry.js'
import type { SegmentSet } from '../holder/segment-set.js'
import type { OfferEpochs } from '../holder/sharing.js'
import { closeAll, type OwnedFd } from '../kernel/index.js'
import { Segment } from '../state/segment.js'
import type { BundleItem } from '../wire/bundle.js'
import type { WireEnvelope } from '../wire/link.js'
import type { ControlSocket } from './control-socket.js'

/** Puts the descriptors that a holder sends where they belong, and knows whether those of an offer are all here. */
export class OfferReceiver {
  readonly #into: { registry: Registry; segmentSet: SegmentSet; controlSocket: ControlSocket }
  /** A segment of this epoch exists: no number is given twice. */
  readonly #shared: (epoch: number) => void
  readonly #late: (entry: Entry) => void
  readonly #pidfds: OwnedFd[] = []
  #offer: (OfferEpochs & { readonly items: number }) | null = null

  constructor(
    into: { registry: Registry; segmentSet: SegmentSet; controlSocket: ControlSocket },
    shared: (epoch: number) => void,
    /** The incumbent has taken it in since the Offer. Takes the descriptor. */
    late: (entry: Entry) => void,
  ) {
    this.#into = into
    this.#shared = shared
    this.#late = late
  }

  /** The pidfds of the other lease holders: this process may have to come back to them. */
  get pidfds(): readonly OwnedFd[] {
    return this.#pidfds
  }

  /** The next bundle is what this offer names. */
  announce({ epoch, wayBack, source, items }: NonNullable<WireEnvelope['offer']>): void {
    this.#offer = { epoch: epoch ?? 0, wayBack: wayBack ?? 0, source: source ?? 0, items: items ?? 0 }
  }

  /** Takes a bundle. Returns the offer that it completes, or null if none was announced. Throws its fault; closes what it did not take. */
  accept(items: readonly BundleItem[]): OfferEpochs | null {
    const left = [...items]
    try {
      for (let item = left.shift(); item !== undefined; item = left.shift()) this.#place(item)
    } catch (error) {
      closeAll(left.map(item => item.fd))
      throw error
    }
    if (this.#offer === null) return null
    const { items: announced, ...offer } = this.#offer
    this.#offer = null
    const missing = [offer.epoch, offer.wayBack].filter(epoch => !this.#into.segmentSet.isWritable(epoch))
    if (announced === items.length && missing.length === 0) return offer
    const lacks = missing.length > 0 ? `, and not the segments ${missing.join(' and ')} to write in` : ''
    throw new FdbError(
      'ERR_FDB_FDS_MISSING',
      `the offer names ${announced} descriptors and brought ${items.length}${lacks}: the process that made it is faulty; the handoff is refused`,
    )
  }

  /** The pidfds are not needed any more. */
  close(): void {
    closeAll(this.#pidfds.splice(0))
  }

  #place({ role, name = '', spec = '', writable = false, fd }: BundleItem): void {
    const { registry, segmentSet, controlSocket } = this.#into
    switch (role) {
      case 'listener':
      case 'named':
        if (this.#offer === null) this.#late({ name, role, spec, fd })
        else registry.put({ name, role, spec, fd })
        return
      case 'segment': {
        const segment = Segment.open(fd)
        segmentSet.put(segment, writable)
        this.#shared(segment.epoch)
        return
      }
      case 'pidfd':
        this.#pidfds.push(fd)
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
