import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { type Epoch, NOBODY } from '../handoff/messages.js'
import { isBeforeCommit } from '../handoff/phases.js'
import { closeAll } from '../kernel/index.js'
import { descriptorsOf, fdLimits, outOfDescriptors } from '../os/limits.js'
import type { Segment } from '../state/segment.js'
import type { BundleItem } from '../wire/bundle.js'
import { peerLeft } from '../wire/link.js'
import { type Entry, entryItem } from './entry.js'
import { lostChannel } from './failure-reasons.js'
import type { HolderHost } from './message-handler.js'
import type { Peer } from './peer.js'
import type { Peers } from './peers.js'
import type { Registry } from './registry.js'
import type { SegmentSet } from './segment-set.js'
import type { HandoffTimes } from './times.js'

export interface OfferEpochs {
  readonly epoch: Epoch
  readonly wayBack: Epoch
  readonly source: Epoch
}

interface OfferSenderDeps {
  registry: Registry
  segmentSet: SegmentSet
  peers: Peers
  host: HolderHost
  logger: Logger
  driver: {
    times(): HandoffTimes
    repeatUntilDone(what: string, act: () => void): void | Promise<void>
    /** Sending an Offer failed. `taken`: the kernel has accepted descriptors, which the joiner can receive. */
    undelivered(peer: Peer, taken: boolean): void
  }
}

/**
 * Sends a joiner all descriptors of the service, including those that are registered before the Commit, and sends new segments to each
 * process that may have to read or write them. Owns the dups that are in flight.
 */
export class OfferSender {
  readonly #deps: OfferSenderDeps
  /** Resolves when the last Offer was sent. Later bundles wait, so that the joiner does not take them for a part of the Offer. */
  #offering: Promise<void> = Promise.resolve()

  constructor(deps: OfferSenderDeps) {
    this.#deps = deps
    deps.registry.added = entry => this.#late(entry)
  }

  offer(peer: Peer, offered: OfferEpochs): void {
    let sent: BundleItem[]
    try {
      sent = this.#collect(peer, offered)
    } catch (cause) {
      peer.reason ??= outOfDescriptors('the descriptors for the successor cannot be collected', cause)
      // The state machine must finish the present step first.
      queueMicrotask(() => this.#deps.driver.undelivered(peer, false))
      return
    }
    peer.holds = true
    const { epoch, wayBack, source } = offered
    const { ready: timeoutMs, quiesce: quiesceMs } = this.#deps.driver.times()
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
        descriptors: this.#descriptorsOfOwner ?? 0,
        served: this.#deps.host.state().owner !== NOBODY,
      },
    })
    this.#offering = peer.link
      .sendBundle(sent, timeoutMs)
      .catch(error => {
        peer.reason ??= peerLeft(error) ? lostChannel(peer) : error
        this.#deps.logger.warn({ err: error, pid: peer.pid }, 'the joiner did not take the offer')
        this.#deps.driver.undelivered(peer, channel.fdsSent > before)
      })
      .finally(() => closeItems(sent))
  }

  /** Sends the joiner an entry that was registered after the Offer and before the Commit, so that the entry survives this process. */
  #late(entry: Entry): void {
    const peer = this.#joining
    // An Offer that is not sent yet will contain the entry.
    if (peer === undefined || !peer.holds) return
    if (entry.role === 'named') {
      peer.lateNames.add(entry.name)
      peer.adopted.add(entry.name)
    }
    const item = { ...entryItem(entry), fd: entry.fd.share() }
    void this.#offering
      .then(() => peer.link.sendBundle([item], this.#deps.driver.times().ready))
      .catch(error => {
        if (this.#joining !== peer) return
        peer.reason ??= peerLeft(error) ? lostChannel(peer) : error
        this.#deps.host.dispatch({ type: 'cancel' })
      })
      .finally(() => item.fd.close())
  }

  /**
   * Makes segments, and sends them to each process that may have to read or write them, before any process writes. A process that does not
   * receive them in time is stopped or stuck; when it runs again, it reads them before any later message. If making them fails, throws
   * with `offer`; otherwise retries until it succeeds.
   */
  make(epochs: readonly Epoch[], offer: boolean): void | Promise<void> {
    if (offer) return this.#shareAll(this.#deps.segmentSet.make(epochs))
    let made: Segment[] = []
    const making = this.#deps.driver.repeatUntilDone('make', () => {
      made = this.#deps.segmentSet.make(epochs)
    })
    return making === undefined ? this.#shareAll(made) : making.then(() => this.#shareAll(made))
  }

  /** Sends a reconnected peer the segments that were made while it had no channel. */
  catchUp(peer: Peer): void {
    const missed = this.#deps.segmentSet.all.filter(
      segment =>
        segment.kind === 'epoch' && this.#deps.segmentSet.isWritable(segment.epoch) && !segment.sealed,
    )
    if (missed.length > 0)
      this.#share(peer, missed).catch(error =>
        this.#deps.logger.debug(
          { err: error, pid: peer.pid },
          'a peer did not get segments that it has missed',
        ),
      )
  }

  /** The number of descriptors that the owner has open, or null if unknown. */
  get #descriptorsOfOwner(): number | null {
    const { owner, scope } = this.#deps.host.state()
    if (scope === 'holder') return fdLimits().open
    const peer = this.#deps.peers.get(owner)
    return peer?.proven ? descriptorsOf(peer.pid) : null
  }

  /** The joiner, or undefined if there is none or its Commit was sent. */
  get #joining(): Peer | undefined {
    const { phase, joiner } = this.#deps.host.state()
    return isBeforeCommit(phase) ? this.#deps.peers.get(joiner) : undefined
  }

  /** Collects the descriptors of an Offer. `share()` keeps them open until the peer has received them, even if a listener closes before. */
  #collect(peer: Peer, { epoch, wayBack, source }: OfferEpochs): BundleItem[] {
    if (this.#deps.segmentSet.get(epoch) === undefined || this.#deps.segmentSet.get(wayBack) === undefined)
      throw new FdbError('ERR_FDB_INTERNAL', `the segments ${epoch} and ${wayBack} could not be made`)
    const sent: BundleItem[] = []
    const segments = this.#deps.segmentSet.offer(source, [epoch, wayBack])
    try {
      const items = [...this.#deps.registry.items(), ...this.#deps.host.extraItems(), ...segments.items]
      for (const item of [...items, ...this.#pidfds(peer)]) sent.push({ ...item, fd: item.fd.share() })
      return sent
    } catch (error) {
      closeItems(sent)
      throw error
    } finally {
      segments.release()
    }
  }

  /** Returns the pidfds of other members, from which a restarted daemon learns which processes may still be alive. */
  #pidfds(except: Peer): BundleItem[] {
    return this.#deps.peers.all
      .filter(p => p.holds && p.id !== except.id && p.pidfd !== null)
      .map(p => ({ role: 'pidfd', name: String(p.pid), fd: p.pidfd! }))
  }

  #shareAll(made: readonly Segment[]): void | Promise<void> {
    const sharers = this.#deps.peers.reachable
    if (sharers.length === 0) return
    return Promise.allSettled(sharers.map(peer => this.#share(peer, made))).then(() => {})
  }

  /** Sends the segments in order with other messages. Needs no new descriptor, so this works even at the limit of open files. */
  async #share(peer: Peer, segments: readonly Segment[]): Promise<void> {
    const items = segments.map(
      segment => ({ role: 'segment', epoch: segment.epoch, writable: true, fd: segment.fd.share() }) as const,
    )
    await peer.link.sendBundle(items, this.#deps.driver.times().freeze).finally(() => closeItems(items))
  }
}

function closeItems(items: readonly BundleItem[]): void {
  closeAll(items.map(item => item.fd))
}
