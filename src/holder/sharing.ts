import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { Epoch } from '../handoff/messages.js'
import { closeAll } from '../kernel/index.js'
import { noDescriptors } from '../os/limits.js'
import type { Segment } from '../state/segment.js'
import type { BundleItem } from '../wire/bundle.js'
import { peerLeft } from '../wire/link.js'
import { lostChannel } from './failure-reasons.js'
import type { Peer } from './peer.js'
import type { Peers } from './peers.js'
import type { Entry, Registry } from './registry.js'
import type { SegmentSet } from './segment-set.js'
import type { HandoffTimes } from './times.js'

export interface Offered {
  readonly epoch: Epoch
  readonly wayBack: Epoch
  readonly source: Epoch
}

interface SharingDeps {
  registry: Registry
  segmentSet: SegmentSet
  peers: Peers
  extraItems: () => BundleItem[]
  times: () => HandoffTimes
  insist: (what: string, act: () => void) => void | Promise<void>
  /** An Offer did not get through; `taken`: the kernel took descriptors for the joiner. */
  undelivered: (peer: Peer, taken: boolean) => void
  descriptors: () => number | null
  /** The joiner, until its Commit. */
  joining: () => Peer | undefined
  /** Ends the joiner's handoff. */
  giveUp: () => void
  logger: Logger
}

/**
 * Gives descriptors to peers: all to a joiner, with those that the service takes in until the Commit; new segments to processes that may
 * have to read or write there. Owns the dups in flight.
 */
export class DescriptorSharing {
  readonly #parts: SharingDeps
  /** The last Offer is on its way; what comes later must not be taken for a part of it. */
  #offering: Promise<void> = Promise.resolve()

  constructor(parts: SharingDeps) {
    this.#parts = parts
    parts.registry.added = entry => this.#late(entry)
  }

  offer(peer: Peer, offered: Offered): void {
    let sent: BundleItem[]
    try {
      sent = this.#collect(peer, offered)
    } catch (cause) {
      peer.reason ??= noDescriptors('what is to be handed over cannot be collected', cause)
      // The machine hears of it after the step that this is part of.
      queueMicrotask(() => this.#parts.undelivered(peer, false))
      return
    }
    peer.holds = true
    const { epoch, wayBack, source } = offered
    const { ready: timeoutMs, quiesce: quiesceMs } = this.#parts.times()
    const { channel } = peer.link
    const before = channel.fdsSent
    peer.link.post({
      offer: {
        epoch,
        wayBack,
        source: Math.max(0, source),
        items: sent.length,
        timeoutMs,
        quiesceMs,
        descriptors: this.#parts.descriptors() ?? 0,
      },
    })
    this.#offering = peer.link
      .sendBundle(sent, timeoutMs)
      .catch(error => {
        peer.reason ??= peerLeft(error) ? lostChannel(peer) : error
        this.#parts.logger.warn({ err: error, pid: peer.pid }, 'the offer was not taken')
        this.#parts.undelivered(peer, channel.fdsSent > before)
      })
      .finally(() => closeItems(sent))
  }

  /** Sends an entry that came between Offer and Commit, before the Commit: an acknowledged descriptor does not die with its process. */
  #late({ name, role, spec, fd }: Entry): void {
    const peer = this.#parts.joining()
    // One that has not been made its Offer yet finds it there.
    if (peer === undefined || !peer.holds) return
    if (role === 'named') {
      peer.late.add(name)
      peer.adopted.add(name)
    }
    const item = { name, role, spec, fd: fd.share() }
    void this.#offering
      .then(() => peer.link.sendBundle([item], this.#parts.times().ready))
      .catch(error => {
        if (this.#parts.joining() !== peer) return
        peer.reason ??= peerLeft(error) ? lostChannel(peer) : error
        this.#parts.giveUp()
      })
      .finally(() => item.fd.close())
  }

  /**
   * Everybody who may have to read or write there has it before anybody does. One that does not take it in time is
   * stopped or stuck: it finds it in its channel, before anything that is said later. `offer`: it may fail, and throws then;
   * else it is repeated until it is done.
   */
  make(epochs: readonly Epoch[], offer: boolean): void | Promise<void> {
    if (offer) return this.#shareAll(this.#parts.segmentSet.make(epochs))
    let made: Segment[] = []
    const making = this.#parts.insist('make', () => {
      made = this.#parts.segmentSet.make(epochs)
    })
    return making === undefined ? this.#shareAll(made) : making.then(() => this.#shareAll(made))
  }

  /** One that was away has missed the segments made meanwhile. */
  catchUp(peer: Peer): void {
    const missed = this.#parts.segmentSet.all.filter(
      segment =>
        segment.kind === 'epoch' && this.#parts.segmentSet.isWritable(segment.epoch) && !segment.sealed,
    )
    if (missed.length > 0) this.#share(peer, missed).catch(() => {})
  }

  /** Shared for as long as the bundle is on its way: a listener may be closed meanwhile, a handoff be over. */
  #collect(peer: Peer, { epoch, wayBack, source }: Offered): BundleItem[] {
    if (this.#parts.segmentSet.get(epoch) === undefined || this.#parts.segmentSet.get(wayBack) === undefined)
      throw new FdbError('ERR_FDB_INTERNAL', `the segments ${epoch} and ${wayBack} could not be made`)
    const sent: BundleItem[] = []
    const segments = this.#parts.segmentSet.offer(source, [epoch, wayBack])
    try {
      const items = [...this.#parts.registry.items(), ...this.#parts.extraItems(), ...segments.items]
      for (const item of [...items, ...this.#pidfds(peer)]) sent.push({ ...item, fd: item.fd.share() })
      return sent
    } catch (error) {
      closeItems(sent)
      throw error
    } finally {
      segments.release()
    }
  }

  /** Members know each other's pidfd, so that a restarted daemon can be told who may still be alive. */
  #pidfds(except: Peer): BundleItem[] {
    return this.#parts.peers.all
      .filter(p => p.holds && p.id !== except.id && p.pidfd !== null)
      .map(p => ({ role: 'pidfd', name: String(p.pid), fd: p.pidfd! }))
  }

  #shareAll(made: readonly Segment[]): void | Promise<void> {
    const sharers = this.#parts.peers.holding
    if (sharers.length === 0) return
    return Promise.allSettled(sharers.map(peer => this.#share(peer, made))).then(() => {})
  }

  /** One small frame each, in order with what is told. It takes no descriptor of this process: who is told to write in one must have it. */
  async #share(peer: Peer, segments: readonly Segment[]): Promise<void> {
    const items = segments.map(
      segment => ({ role: 'segment', epoch: segment.epoch, writable: true, fd: segment.fd.share() }) as const,
    )
    await peer.link.sendBundle(items, this.#parts.times().freeze).finally(() => closeItems(items))
  }
}

function closeItems(items: readonly BundleItem[]): void {
  closeAll(items.map(item => item.fd))
}
