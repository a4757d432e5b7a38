import { afterHearing, type Limit } from '../channel/limit.js'
import { FdbError } from '../errors.js'
import { closeAll, type OwnedFd } from '../kernel/index.js'
import { noDescriptors } from '../process/limits.js'
import { unwatchable, watchDeath } from '../process/liveness.js'
import { isSame, type ProcessIdentity, watchIdentity } from '../process/process-identity.js'
import { killVerified } from '../process/verified-kill.js'
import { Wakefulness } from '../process/wakefulness.js'
import type { BundleItem } from '../protocol/bundle.js'
import type { Outcome } from '../protocol/effect-queue.js'
import { packToMember, type StatePosition, unpackToHolder } from '../protocol/envelope.js'
import type { HolderEffect, HolderEvent, HolderPhase, HolderState } from '../protocol/holder-machine.js'
import type { Link, WireEnvelope } from '../protocol/link.js'
import { type Id, NOBODY, type ToHolder, type ToMember } from '../protocol/messages.js'
import { remoteError } from '../protocol/remote-error.js'
import type { Segment } from '../state/segment.js'
import { reject } from './admission.js'
import { insist } from './insist.js'
import type { HandoffTimes, Logger } from './options.js'
import type { Peer } from './peer.js'
import type { Registry } from './registry.js'
import type { SegmentShelf } from './segment-shelf.js'
import { Timeline } from './timeline.js'
import { patience } from './times.js'

/** What a holder needs from the process that it lives in. */
export interface Surroundings {
  /** The machine's state now. */
  state(): HolderState
  /** Steps the machine and has its effects carried out. */
  dispatch(event: HolderEvent): void
  /** Further descriptors of an offer (embedded: control listener and lock). Borrowed. */
  extraItems(): BundleItem[]
  /** What the own member last said of the state (embedded), else null. */
  position(): StatePosition | null
  /** A joiner said what it has adopted (daemon: names that it does not want may go after commit). */
  settled?(peer: Peer): void
  /** Something that `status` shows has changed. */
  changed?(): void
  /** Further messages of a member. Owns the descriptors. Returns whether it knew the message. */
  other?(peer: Peer, envelope: WireEnvelope, fds: OwnedFd[]): boolean
  /** Owns the descriptors. Absent: members send none here. */
  bundle?(peer: Peer, items: BundleItem[]): void
  /** A member that came back has sent all it holds; the machine hears of it next. */
  takeBack?(peer: Peer): void
  /** Forgotten for good. */
  forgotten?(peer: Peer): void
}

export interface Candidate {
  readonly link: Link
  readonly pid: number
  readonly generation: number
  readonly identity: ProcessIdentity
  readonly proven: boolean
  readonly pidfd: OwnedFd | null
  /** Daemon: what it wants as the incumbent; absent: nothing of its own. */
  readonly times?: Partial<HandoffTimes>
  readonly quiesces?: boolean
}

/** How often it is looked how much has been written. */
const GROWTH_LOOK_MS = 1_000
/** An owner that could not begin tries again. */
const AGAIN_MS = 1_000
const AGAIN_MOST_MS = 60_000
const STUCK_LOOK_MS = 10

/** How the end of a channel shows depends on what was on its way: told as ERR_FDB_SUCCESSOR_LOST, always. */
const LEFT: ReadonlySet<string> = new Set([
  'ERR_FDB_CHANNEL_CLOSED',
  'ERR_FDB_CHANNEL_RESET',
  'ERR_FDB_CHANNEL_TRUNCATED',
])

/** The driver of the holder's machine: owns links, timers and what is offered. */
export class Holder {
  readonly timeline = new Timeline()
  readonly registry: Registry
  readonly shelf: SegmentShelf
  readonly #hosting: Surroundings
  readonly #ownTimes: HandoffTimes
  readonly #logger: Logger
  readonly #peers = new Map<Id, Peer>()
  #nextId: Id
  #phase: HolderPhase
  #deadline: Limit | undefined
  #ticker: NodeJS.Timeout | undefined
  #beats: NodeJS.Timeout | undefined
  readonly #growth: NodeJS.Timeout
  readonly #renewBytes: number
  readonly #awake = new Wakefulness()
  #probationSince = 0
  #hurry = false
  #closed = false
  /** Told of already. */
  #keptOn: Id = NOBODY
  #again = { at: 0, ms: AGAIN_MS }

  constructor(parts: {
    hosting: Surroundings
    registry: Registry
    shelf: SegmentShelf
    times: HandoffTimes
    logger: Logger
    renewBytes: number
    firstId: Id
  }) {
    this.#hosting = parts.hosting
    this.registry = parts.registry
    this.shelf = parts.shelf
    this.#ownTimes = parts.times
    this.#logger = parts.logger
    this.#nextId = parts.firstId
    this.#phase = parts.hosting.state().phase
    this.#beat()
    this.#renewBytes = parts.renewBytes
    this.#growth = setInterval(() => this.#renewWhenGrown(), GROWTH_LOOK_MS).unref()
  }

  get peers(): Peer[] {
    return [...this.#peers.values()]
  }

  peer(id: Id): Peer | undefined {
    return this.#peers.get(id)
  }

  /** A process wants to take over: it gets an Offer, or a Reject. Takes the link and the pidfd. */
  admit(candidate: Candidate): void {
    const peer = this.#add(candidate)
    if (peer !== null) this.#hosting.dispatch({ type: 'join', id: peer.id })
  }

  /** A member that lost its channel is back. */
  readmit(candidate: Candidate): void {
    const known = this.peers.find(
      p => isSame(p.identity, candidate.identity) && p.generation === candidate.generation && !p.over,
    )
    if (known === undefined) {
      const peer = this.#add(candidate)
      if (peer === null) return
      peer.holds = true
      peer.returning = true
      return
    }
    if (known.link.open) {
      known.link.close()
      this.#hosting.dispatch({ type: 'lost', id: known.id })
    }
    known.link = candidate.link
    known.returning = true
    known.times = candidate.times ?? {}
    candidate.pidfd?.close()
    this.#listen(known)
  }

  /**
   * Ends those that were given descriptors once and are neither gone nor proved dead, as they block every upgrade: SIGKILL,
   * by their pidfds. Resolves when none is left; rejects with ERR_FDB_STUCK when one is there after `timeoutMs` still.
   */
  async killStuck(timeoutMs: number): Promise<void> {
    const { bound } = this.#hosting.state()
    for (const id of bound) {
      const peer = this.#peers.get(id)
      if (peer === undefined) continue
      this.#logger.warn({ pid: peer.pid }, 'ends a process that blocks the upgrade, as an operator asked')
      killVerified(peer.identity, peer.proven ? peer.pidfd : null)
    }
    const until = performance.now() + timeoutMs
    while (this.#hosting.state().bound.length > 0) {
      if (performance.now() >= until) {
        const pids = this.#hosting.state().bound.map(id => this.#peers.get(id)?.pid ?? 0)
        throw new FdbError(
          'ERR_FDB_STUCK',
          `process ${pids.join(', ')} did not end within ${timeoutMs} ms after SIGKILL: it waits in the kernel, or belongs to another user; end it by hand`,
          { details: { pids } },
        )
      }
      await new Promise(resolve => setTimeout(resolve, STUCK_LOOK_MS))
    }
  }

  /**
   * Daemon: ends the member that serves if it has said nothing for longer than a successor in probation may be silent. Resolves
   * with its pid when it has ended, or null when it is heard. Rejects with ERR_FDB_STUCK.
   */
  async killSilentOwner(timeoutMs: number): Promise<number | null> {
    const owner = this.#peers.get(this.#hosting.state().owner)
    const { heartbeat } = this.#ownTimes
    if (owner === undefined) return null
    if (performance.now() - owner.beatAt <= patience(this.#times.silence, heartbeat)) return null
    this.#logger.warn({ pid: owner.pid }, 'ends the member that serves and is silent, as an operator asked')
    killVerified(owner.identity, owner.proven ? owner.pidfd : null)
    const until = performance.now() + timeoutMs
    while (!owner.died) {
      if (performance.now() >= until) {
        throw new FdbError(
          'ERR_FDB_STUCK',
          `process ${owner.pid}, which serves, did not end within ${timeoutMs} ms after SIGKILL: it waits in the kernel; end it by hand`,
          { details: { pids: [owner.pid] } },
        )
      }
      await new Promise(resolve => setTimeout(resolve, STUCK_LOOK_MS))
    }
    return owner.pid
  }

  /** Release the standby as soon as there is fresh evidence that the successor is well: somebody waits to join. */
  endProbation(): void {
    this.#hurry = true
    this.#judgeProbation()
  }

  /** Called by the hosting after each step of the machine. */
  stepped(): void {
    const { phase } = this.#hosting.state()
    if (phase === this.#phase) return
    this.#phase = phase
    if (phase === 'offering') this.timeline.begin(this.#peers.get(this.#hosting.state().joiner)?.pid ?? 0)
    this.timeline.enter(phase)
    this.#logger.debug({ phase }, 'handoff phase')
    this.#setDeadline(phase)
    if (phase === 'probation') {
      this.#probationSince = performance.now()
      this.#tick()
    } else {
      clearInterval(this.#ticker)
      this.#ticker = undefined
      this.#hurry = false
    }
    this.#prune()
    this.#hosting.changed?.()
  }

  /** What it returns is awaited before the next effect. */
  perform(effect: HolderEffect): void | Promise<void> {
    switch (effect.type) {
      case 'tell':
        this.#tell(effect.to, effect.message)
        return
      case 'seal':
        return this.#insist('seal', () => this.shelf.seal(effect.from, effect.below))
      case 'make':
        return this.#make(effect.epochs, effect.offer ?? false)
      case 'mark':
        return this.#insist('mark', () => this.shelf.mark(effect.epoch))
      case 'refuse':
        this.#refuse(effect.id, effect.because)
        return
      case 'failed':
        this.#failed(effect.id, effect.phase)
        return
    }
  }

  /** What has come of an effect. */
  outcome(effect: HolderEffect, outcome: Outcome): void {
    if (outcome.done) {
      if (effect.type === 'seal') this.#prune()
      return
    }
    this.#logger.error({ err: outcome.error, effect: effect.type }, 'a step of the handoff failed')
    if (effect.type !== 'make') return
    const joiner = this.#peers.get(this.#hosting.state().joiner)
    if (joiner !== undefined)
      joiner.reason ??= noDescriptors('what is to be handed over cannot be made', outcome.error)
    this.#hosting.dispatch({ type: 'unmade' })
  }

  /** What a handoff that is over has left. */
  #prune(): void {
    const { phase, epoch } = this.#hosting.state()
    if (phase === 'idle') this.shelf.prune(epoch)
  }

  #insist(what: string, act: () => void): void | Promise<void> {
    return insist(act, what, this.#logger, () => this.#closed)
  }

  /** Of the handoff that is under way: what its incumbent has asked for, else the own. */
  get #times(): HandoffTimes {
    const { phase, owner, standby } = this.#hosting.state()
    const incumbent = this.#peers.get(phase === 'probation' ? standby : owner)
    return incumbent === undefined ? this.#ownTimes : { ...this.#ownTimes, ...incumbent.times }
  }

  /**
   * Members of a daemon take its silence for its end: they accept, so that nobody is refused. A successor in probation tells
   * by it that the one that decides is stopped, and says so.
   */
  #beat(): void {
    this.#beats = setInterval(() => {
      for (const peer of this.#peers.values()) {
        if (peer.holds && !peer.returning && peer.link.open) peer.link.tell({ heartbeat: { healthy: true } })
      }
    }, this.#ownTimes.heartbeat)
    this.#beats.unref()
  }

  /** A segment as large as all before it: so what is written again and again is compacted, and costs no more than twice. */
  #renewWhenGrown(): void {
    const { phase, epoch, owner, unfit } = this.#hosting.state()
    if (phase === 'idle' && unfit.includes(owner)) {
      this.#tryAgain()
      return
    }
    if (phase !== 'idle') return
    this.#again = { at: 0, ms: AGAIN_MS }
    if (this.shelf.hasGrown(epoch, this.#renewBytes)) this.#hosting.dispatch({ type: 'renew' })
  }

  /** An owner that could not begin, perhaps for want of descriptors or memory: seldomer and seldomer. */
  #tryAgain(): void {
    const now = performance.now()
    if (now < this.#again.at) return
    this.#again = { at: now + this.#again.ms, ms: Math.min(this.#again.ms * 2, AGAIN_MOST_MS) }
    this.#hosting.dispatch({ type: 'renew' })
  }

  /** Ends all links and timers. What is held by others is not touched. */
  close(): void {
    this.#closed = true
    this.#deadline?.clear()
    clearInterval(this.#ticker)
    clearInterval(this.#beats)
    clearInterval(this.#growth)
    for (const peer of this.peers) this.#forget(peer)
  }

  // ---- peers

  /** Null: there is no descriptor left to watch it by; it is told. */
  #add(candidate: Candidate): Peer | null {
    const id = this.#nextId++
    const peer: Peer = {
      id,
      pid: candidate.pid,
      generation: candidate.generation,
      identity: candidate.identity,
      proven: candidate.proven,
      times: candidate.times ?? {},
      quiesces: candidate.quiesces ?? false,
      link: candidate.link,
      pidfd: candidate.pidfd,
      watch: null,
      holds: false,
      returning: false,
      beatAt: performance.now(),
      wellAt: performance.now(),
      healthy: true,
      report: null,
      position: null,
      reason: null,
      adopted: new Set(),
      over: false,
      died: false,
    }
    if (candidate.pidfd !== null) {
      try {
        peer.watch = watchDeath(candidate.pidfd, () => this.#died(peer))
        peer.watch.unref()
      } catch (cause) {
        candidate.pidfd.close()
        reject(candidate.link, unwatchable(candidate.pid, cause))
        return null
      }
    } else {
      peer.watch = watchIdentity(candidate.identity, () => this.#died(peer))
      peer.watch?.unref()
    }
    this.#peers.set(id, peer)
    this.#listen(peer)
    return peer
  }

  #listen(peer: Peer): void {
    const { link } = peer
    link.start({
      message: (envelope, fds) => this.#onMessage(peer, envelope, fds),
      ...(this.#hosting.bundle && { bundle: items => this.#hosting.bundle?.(peer, items) }),
      broken: error => {
        peer.reason = error
        this.#logger.warn({ err: error, pid: peer.pid }, 'a peer does not keep to the protocol')
        link.close()
        this.#lost(peer)
      },
      end: error => {
        if (peer.link !== link) return
        if (error !== null && !LEFT.has(error.code)) peer.reason ??= error
        this.#lost(peer)
      },
    })
  }

  #lost(peer: Peer): void {
    this.#hosting.dispatch({ type: 'lost', id: peer.id })
    this.#forgetIfIdle(peer)
    this.#hosting.changed?.()
  }

  #died(peer: Peer): void {
    peer.watch = null
    peer.died = true
    if (peer.over) return
    peer.reason ??= new FdbError('ERR_FDB_SUCCESSOR_DIED', `process ${peer.pid} has died`)
    this.#hosting.dispatch({ type: 'dead', id: peer.id })
    this.#forget(peer)
    this.#hosting.changed?.()
  }

  /** A peer that the machine does not wait for is forgotten with its link: the process may live on, and try again and again. */
  #forgetIfIdle(peer: Peer): void {
    const { owner, joiner, standby, bound, backs } = this.#hosting.state()
    if ([owner, joiner, standby, ...bound, ...backs.map(back => back.id)].includes(peer.id)) return
    this.#forget(peer)
  }

  #forget(peer: Peer): void {
    if (peer.over) return
    peer.over = true
    peer.watch?.close()
    peer.link.close()
    peer.pidfd?.close()
    this.#peers.delete(peer.id)
    this.#hosting.forgotten?.(peer)
  }

  #onMessage(peer: Peer, envelope: WireEnvelope, fds: OwnedFd[]): void {
    if (envelope.heartbeat) {
      closeAll(fds)
      peer.beatAt = performance.now()
      peer.healthy = envelope.heartbeat.healthy ?? false
      if (peer.healthy) peer.wellAt = peer.beatAt
      peer.report = parseReport(envelope.heartbeat.report ?? '')
      return
    }
    if (envelope.endProbation) {
      closeAll(fds)
      const { owner } = this.#hosting.state()
      // Who ends the service is not followed by the one before it, well or not.
      if (envelope.endProbation.closing && peer.id === owner) this.#hosting.dispatch({ type: 'healthy' })
      else this.endProbation()
      return
    }
    if (envelope.abort) {
      peer.reason = remoteError(envelope.abort, { code: 'ERR_FDB_ABORTED', message: 'the successor gave up' })
    }
    if (envelope.unfit) {
      const { code, message } = envelope.unfit
      peer.reason = remoteError({ code, message }, { code: 'ERR_FDB_UNFIT', message: 'it cannot serve' })
      this.#logger.warn({ pid: peer.pid, err: peer.reason }, 'a process says that it cannot come to serve')
    }
    if (envelope.ready) {
      peer.adopted = new Set(envelope.ready.adopted)
    }
    const said = envelope.ready?.position ?? envelope.frozen?.position ?? envelope.prepared?.position
    if (said)
      peer.position = { epoch: said.epoch ?? 0, sequence: said.sequence ?? 0, digest: said.digest ?? '' }
    const message = unpackToHolder(envelope)
    if (message !== null) {
      closeAll(fds)
      this.#hear(peer, message)
    } else if (!(this.#hosting.other?.(peer, envelope, fds) ?? false)) closeAll(fds)
  }

  #hear(peer: Peer, message: ToHolder): void {
    if (message.kind === 'prepared' && this.#differs(peer)) {
      this.#hosting.dispatch({ type: 'message', from: peer.id, message: { kind: 'abort' } })
      return
    }
    if (message.kind === 'serving') peer.beatAt = peer.wellAt = performance.now()
    if (message.kind === 'back') {
      peer.returning = false
      this.#hosting.takeBack?.(peer)
      this.#catchUp(peer)
    }
    if (message.kind === 'gone') {
      peer.reason ??= new FdbError(
        'ERR_FDB_SUCCESSOR_LEFT',
        `process ${peer.pid} was told to end while another stood by`,
      )
    }
    this.#hosting.dispatch({ type: 'message', from: peer.id, message })
    if (message.kind === 'serving') this.#hosting.settled?.(peer)
    if (message.kind === 'gone' && !this.#isBound(peer)) this.#hosting.changed?.()
  }

  #isBound(peer: Peer): boolean {
    return this.#hosting.state().bound.includes(peer.id)
  }

  /** Both sides must have come to the same state at the commit's sequence. */
  #differs(peer: Peer): boolean {
    const { owner, unfit } = this.#hosting.state()
    const ours = this.#hosting.position() ?? this.#peers.get(owner)?.position ?? null
    const theirs = peer.position
    // One that could not read what others wrote has nothing to compare with.
    if (ours === null || owner === NOBODY || unfit.includes(owner)) return false
    if (ours.digest === theirs?.digest && ours.sequence === theirs.sequence) return false
    const read =
      theirs === null ? 'it does not say which' : `sequence ${theirs.sequence}, digest ${theirs.digest}`
    peer.reason = new FdbError(
      'ERR_FDB_DIGEST',
      `the successor read another state: ${read}; ours is sequence ${ours.sequence}, digest ${ours.digest}: the handoff is refused`,
    )
    return true
  }

  // ---- effects

  #tell(to: Id, message: ToMember): void {
    const peer = this.#peers.get(to)
    if (peer === undefined || !peer.link.open || peer.returning) return
    if (message.kind === 'offer') {
      this.#offer(peer, message.epoch, message.wayBack, message.source)
      return
    }
    if (message.kind === 'abort') {
      const reason = peer.reason ?? this.#deadlineReason(peer)
      peer.link.tell({ abort: { code: reason.code, message: reason.message, phase: this.#phase } })
      return
    }
    if (!peer.quiesces && (message.kind === 'quiesce' || message.kind === 'unquiesce')) {
      if (message.kind === 'quiesce') this.#quiescesUnasked(to, message.epoch)
      return
    }
    // What it said before it was frozen is of no use for comparing.
    if (message.kind === 'freeze') peer.position = null
    const owner = this.#peers.get(this.#hosting.state().owner)
    const position =
      message.kind === 'sealed' ? (this.#hosting.position() ?? owner?.position ?? undefined) : undefined
    peer.link.tell(packToMember(message, position))
  }

  /** An older release ends its work when another serves, as it always did. */
  #quiescesUnasked(from: Id, epoch: number): void {
    this.timeline.quiesceIsUnknown()
    // After the step that this is part of.
    queueMicrotask(() =>
      this.#hosting.dispatch({ type: 'message', from, message: { kind: 'quiesced', epoch } }),
    )
  }

  #offer(peer: Peer, epoch: number, wayBack: number, source: number): void {
    let sent: BundleItem[]
    try {
      sent = this.#collect(peer, epoch, wayBack, source)
    } catch (cause) {
      peer.reason ??= noDescriptors('what is to be handed over cannot be collected', cause)
      // After the step that this is part of.
      queueMicrotask(() => this.#undelivered(peer, false))
      return
    }
    peer.holds = true
    const { channel } = peer.link
    const before = channel.fdsSent
    peer.link.tell({
      offer: {
        epoch,
        wayBack,
        source: Math.max(0, source),
        items: sent.length,
        timeoutMs: this.#times.ready,
        quiesceMs: this.#times.quiesce,
      },
    })
    peer.link
      .sendBundle(sent, this.#times.ready)
      .catch(error => {
        peer.reason ??= LEFT.has((error as FdbError).code) ? lostChannel(peer) : (error as FdbError)
        this.#logger.warn({ err: error, pid: peer.pid }, 'the offer was not taken')
        this.#undelivered(peer, channel.fdsSent > before)
      })
      .finally(() => closeAll(sent.map(item => item.fd)))
  }

  #undelivered(peer: Peer, taken: boolean): void {
    peer.holds = taken
    this.#hosting.dispatch({ type: 'undelivered', id: peer.id, taken })
    if (!peer.link.open) this.#forgetIfIdle(peer)
    this.#hosting.changed?.()
  }

  /** Dups for as long as the bundle is on its way: a listener may be closed meanwhile, a handoff be over. */
  #collect(peer: Peer, epoch: number, wayBack: number, source: number): BundleItem[] {
    if (this.shelf.get(epoch) === undefined || this.shelf.get(wayBack) === undefined)
      throw new FdbError('ERR_FDB_INTERNAL', `the segments ${epoch} and ${wayBack} could not be made`)
    const sent: BundleItem[] = []
    const segments = this.shelf.offer(source, [epoch, wayBack])
    try {
      const items = [...this.registry.items(), ...this.#hosting.extraItems(), ...segments.items]
      for (const item of [...items, ...this.#pidfds(peer)]) sent.push({ ...item, fd: item.fd.dup() })
      return sent
    } catch (error) {
      closeAll(sent.map(item => item.fd))
      throw error
    } finally {
      segments.release()
    }
  }

  /** Members know each other's pidfd, so that a restarted daemon can be told who may still be alive. */
  #pidfds(except: Peer): BundleItem[] {
    return this.peers
      .filter(p => p.holds && p.id !== except.id && p.pidfd !== null)
      .map(p => ({ role: 'pidfd', name: String(p.pid), fd: p.pidfd! }))
  }

  /**
   * Everybody who may have to read or write there has it before anybody does. One that does not take it in time is
   * stopped or stuck: it finds it in its channel, before anything that is said later.
   */
  #make(epochs: readonly number[], offer: boolean): void | Promise<void> {
    if (offer) return this.#shareAll(this.shelf.make(epochs))
    let made: Segment[] = []
    const making = this.#insist('make', () => {
      made = this.shelf.make(epochs)
    })
    return making === undefined ? this.#shareAll(made) : making.then(() => this.#shareAll(made))
  }

  #shareAll(made: readonly Segment[]): void | Promise<void> {
    const sharers = this.peers.filter(peer => peer.holds && !peer.returning && peer.link.open)
    if (sharers.length === 0) return
    return Promise.allSettled(sharers.map(peer => this.#share(peer, made))).then(() => {})
  }

  /** One small frame each, in order with what is told. */
  async #share(peer: Peer, segments: readonly Segment[]): Promise<void> {
    const items = segments.map(
      segment => ({ role: 'segment', epoch: segment.epoch, writable: true, fd: segment.fd.dup() }) as const,
    )
    await peer.link.sendBundle(items, this.#times.freeze).finally(() => closeAll(items.map(item => item.fd)))
  }

  /** One that was away has missed the segments made meanwhile. */
  #catchUp(peer: Peer): void {
    const missed = this.shelf.all.filter(
      segment => segment.kind === 'epoch' && this.shelf.isWritable(segment.epoch) && !segment.sealed,
    )
    if (missed.length > 0) this.#share(peer, missed).catch(() => {})
  }

  #refuse(id: Id, because: 'busy' | 'bound'): void {
    const peer = this.#peers.get(id)
    if (peer === undefined) return
    const { joiner, bound, phase } = this.#hosting.state()
    const others = because === 'busy' ? [joiner] : bound
    const pids = others.map(other => this.#peers.get(other)?.pid).filter(pid => pid !== undefined)
    const message =
      because === 'busy'
        ? `a handoff is under way (phase ${phase}${pids.length > 0 ? `, process ${pids.join(', ')}` : ''}): try again when it is over`
        : `process ${pids.join(', ')} was given the listeners in an earlier handoff and has not ended yet: try again when it has, or end it`
    const { link } = peer
    link
      .send({ reject: { code: 'ERR_FDB_BUSY', message, retryable: true } })
      .catch(() => {})
      .finally(() => link.close())
    peer.link = link
    peer.over = true
    peer.watch?.close()
    peer.pidfd?.close()
    this.#peers.delete(id)
  }

  #failed(id: Id, phase: HolderPhase): void {
    const peer = this.#peers.get(id)
    const reason = peer?.reason ?? this.#deadlineReason(peer)
    this.timeline.fail({ code: reason.code, phase, at: Date.now(), message: reason.message })
    this.#logger.warn(
      { code: reason.code, phase, pid: peer?.pid, err: reason },
      'the handoff failed; the incumbent serves on',
    )
    this.#hosting.changed?.()
  }

  #deadlineReason(peer: Peer | undefined): FdbError {
    if (peer === undefined) return new FdbError('ERR_FDB_SUCCESSOR_DIED', 'the successor has died')
    if (!peer.link.open) return lostChannel(peer)
    const silent = Math.round(performance.now() - peer.beatAt)
    const sick = Math.round(performance.now() - peer.wellAt)
    if (this.#phase === 'probation') {
      return new FdbError(
        'ERR_FDB_UNHEALTHY',
        `process ${peer.pid} ${peer.healthy ? 'was silent' : 'said that it is not healthy'} for ${sick} ms (limit ${this.#times.silence})`,
      )
    }
    const limit = this.#limit(this.#phase)
    return new FdbError(
      'ERR_FDB_DEADLINE',
      `process ${peer.pid} did not get past phase ${this.#phase} within ${limit ?? silent} ms: it is stuck, stopped or slow; raise the limit if it is only slow`,
    )
  }

  // ---- time

  #limit(phase: HolderPhase): number | undefined {
    const { ready, quiesce, freeze, prepare, commit } = this.#times
    switch (phase) {
      case 'offering':
        return ready
      case 'quiescing':
        return quiesce
      case 'freezing':
        return freeze
      case 'preparing':
        return prepare
      case 'committing':
      case 'returning':
        return commit
      default:
        return undefined
    }
  }

  /** The one that stands by cannot come back: a successor that is not well is kept, and that is told once. */
  #kept(peer: Peer): void {
    if (this.#hosting.state().phase !== 'probation' || this.#keptOn === peer.id) return
    this.#keptOn = peer.id
    this.#logger.error(
      { pid: peer.pid, err: this.#deadlineReason(peer) },
      'the successor is not well, and is kept: the process that stands by for it cannot come back',
    )
  }

  #setDeadline(phase: HolderPhase): void {
    this.#deadline?.clear()
    this.#deadline = undefined
    const limit = this.#limit(phase)
    if (limit !== undefined)
      this.#deadline = afterHearing(limit, () => {
        if (phase === 'quiescing') this.timeline.quiesceIsLate()
        this.#hosting.dispatch({ type: 'deadline' })
      })
  }

  #tick(): void {
    clearInterval(this.#ticker)
    this.#awake.restart()
    this.#ticker = setInterval(() => this.#judgeProbation(), this.#ownTimes.heartbeat)
    this.#judgeProbation()
  }

  /**
   * Probation ends by evidence: a Heartbeat that says healthy and is younger than the probation's end. It fails by
   * silence; but when this process itself was stopped or stalled, its own lateness is no evidence against the other.
   */
  #judgeProbation(): void {
    const { phase, owner } = this.#hosting.state()
    if (phase !== 'probation') return
    const peer = this.#peers.get(owner)
    if (peer === undefined) return
    const now = performance.now()
    const { heartbeat } = this.#ownTimes
    const { probation, silence } = this.#times
    const awakeSince = this.#awake.tick(heartbeat, now)
    const over = this.#hurry || now - this.#probationSince >= probation
    const fresh = now - peer.beatAt <= heartbeat * 2
    if (over && fresh && peer.healthy && peer.link.open) this.#hosting.dispatch({ type: 'healthy' })
    else if (now - Math.max(peer.wellAt, awakeSince) > patience(silence, heartbeat)) {
      const silent = now - Math.max(peer.beatAt, awakeSince) > patience(silence, heartbeat)
      this.#hosting.dispatch({ type: silent ? 'silent' : 'unhealthy' })
      this.#kept(peer)
    }
  }
}

function lostChannel({ pid }: Peer): FdbError {
  return new FdbError('ERR_FDB_SUCCESSOR_LOST', `process ${pid} closed its channel or died before it served`)
}

/** A report is a line for `status`; what is longer is none. */
const REPORT_CHARACTERS = 4096

function parseReport(text: string): unknown {
  if (text === '' || text.length > REPORT_CHARACTERS) return null
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}
