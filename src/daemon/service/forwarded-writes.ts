import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import type { Epoch } from '../../handoff/messages.js'
import type { MemberPhase } from '../../handoff/phases.js'
import { type Caller, dismiss, isForeign, turnAway, welcome } from '../../holder/admission.js'
import type { Holder } from '../../holder/holder.js'
import { LostProcesses } from '../../holder/lost-processes.js'
import { parseReport } from '../../holder/message-handler.js'
import type { Peer } from '../../holder/peer.js'
import { type SegmentSet, SegmentSupply } from '../../holder/segment-set.js'
import { closeAll } from '../../kernel/index.js'
import { OWN_LIMIT, orderToEnd, refuseMoves } from '../../member/drain/drain-orders.js'
import { type DrainReport, readDrainReport } from '../../operator/status-report.js'
import type { ProcessIdentity } from '../../os/process-identity.js'
import { fdbroker } from '../../proto/wire.js'
import { FORWARDS_WRITES, type WireEnvelope } from '../../wire/link.js'
import { Followers, ForeignFollowers, noStateError } from './followers.js'

const { Outcome } = fdbroker.wire.Written
/** Limit of authors. While all workers are replaced, both processes of each worker follow; draining generations are authors too. */
export const MOST_AUTHORS = 1_024
/** Limit of an author's changes that were answered before their last piece arrived. An author sends one change after the other, so that few are open. */
const MOST_CUT = 64

/** A failure that recurs is logged once in this time. */
const LOG_MS = 60_000

/** Phases in which a member can never serve again. */
const GIVEN_UP: ReadonlySet<unknown> = new Set<MemberPhase>(['leaving', 'gone'])

/** Phases in which a process has no connection left. */
const ENDED: ReadonlySet<unknown> = new Set(['gone', 'retired'])

type Write = fdbroker.wire.Write.$Properties
type Written = fdbroker.wire.Written.$Properties

/** A connected process that forwards changes: a draining generation or a follower. */
interface Author {
  readonly caller: Caller
  /** Whether it may change the state. */
  readonly writes: boolean
  /** Identifies the author's connection to the members. */
  readonly source: number
  /** The changes that are in flight to a member: the author's numbers, mapped to the daemon's. */
  readonly inFlight: Map<number, number>
  /** Numbers of changes that were answered before their last piece arrived; their later pieces are ignored. */
  readonly cutShort: Set<number>
  /** One change of this author was answered AGAIN. All later ones get the same answer until the author reconnects, so that its changes keep their order. */
  mustReconnect: boolean
  /** The last report of an older generation. */
  report: DrainReport | null
}

/** A change that was forwarded to a member, perhaps not completely. */
interface InFlightWrite {
  readonly author: Author
  readonly number: number
  readonly peer: Peer
  /** Whether its last piece has not arrived yet. */
  more: boolean
}

export interface ForwardedWritesDeps {
  /** The name of the service. */
  readonly name: string
  /** The generations that drained when the previous daemon ended. */
  readonly draining?: readonly ProcessIdentity[]
  readonly logger: Logger
  readonly state: {
    readonly segmentSet: SegmentSet
    /** Returns the limit of the bytes of the state that followers of other users get. */
    most(): number
    /** Whether a member has served, so that there is a state to follow. */
    exists(): boolean
  }
  readonly writer: {
    /** Returns the member that may write, if it is connected. */
    peer(): Peer | undefined
    /** The members: whether one seems to hang, as it sends no heartbeats, and whether a process is one. */
    members(): Pick<Holder, 'isSilent' | 'has'>
  }
  readonly events: {
    /** Called for a process that drains for good: a restarted daemon need not wait for it. */
    onGivenUp(process: ProcessIdentity): void
    /** Opens a channel from a draining process to the member that serves, for its connections. */
    moveConnections(from: Caller): void
    /** Called when an older generation has reported. */
    onReport(): void
    /** Called when an older generation has connected no more, or has another phase, such as retired or gone. */
    changed(): void
  }
}

/**
 * Forwards changes of draining generations and followers to the serving member, and its answers back. If that member dies before it has
 * answered, the author sends the change again.
 */
export class ForwardedWrites {
  readonly #deps: ForwardedWritesDeps
  readonly #supply: SegmentSupply
  readonly #followers: Followers
  /** Followers of other users, by uid. */
  readonly #foreign = new Map<number, ForeignFollowers>()
  /** When it was logged last that the state cannot be copied for a user (performance.now()), by uid. */
  readonly #uncopied = new Map<number, number>()
  readonly #authors = new Map<Caller, Author>()
  /** Previous members without a connection to this daemon. */
  readonly #lost: LostProcesses
  readonly #inFlight = new Map<number, InFlightWrite>()
  /** Whether the refusal for too many authors was logged. */
  #full = false
  /** The end of the older generations, if the service was stopped while this member served. */
  #ends: { readonly of: Peer | undefined; readonly at: number } | null = null
  #source = 0
  #next = 1

  constructor(deps: ForwardedWritesDeps) {
    this.#deps = deps
    this.#supply = new SegmentSupply(deps.state.segmentSet, caller => this.#drop(caller))
    this.#followers = new Followers(() => deps.writer.peer())
    this.#lost = new LostProcesses(() => deps.events.changed())
    for (const identity of deps.draining ?? [])
      this.#lost.add({ pid: identity.pid, identity, proven: false, pidfd: null })
  }

  /** Adds a draining generation or a follower. `writes`: it may change the state. Takes ownership of the caller. */
  add(caller: Caller, facts: fdbroker.wire.Welcome.$Properties, writes: boolean): void {
    if (caller.intent === 'follow' && !this.#deps.state.exists()) {
      turnAway(caller, noStateError(caller.hello.service ?? ''))
      return
    }
    if (!caller.hello.capabilities?.includes(FORWARDS_WRITES)) {
      dismiss(caller)
      return
    }
    if (this.#authors.size >= MOST_AUTHORS) {
      this.#refuse(caller)
      return
    }
    const author: Author = {
      caller,
      writes,
      source: ++this.#source,
      inFlight: new Map(),
      cutShort: new Set(),
      mustReconnect: false,
      report: null,
    }
    this.#authors.set(caller, author)
    const drains = caller.intent !== 'follow'
    if (drains) this.noteFound(caller.identity)
    caller.link.channel.unref()
    caller.link.start({
      message: ({ write, heartbeat, moveRequest }, fds) => {
        closeAll(fds)
        if (write) this.#forward(author, write)
        if (heartbeat && drains) this.#recordReport(author, heartbeat.report ?? '')
        if (moveRequest && drains && this.#ends !== null) refuseMoves(caller.link)
        else if (moveRequest && drains) this.#deps.events.moveConnections(caller)
      },
      broken: () => this.#drop(caller),
      end: () => this.#drop(caller),
    })
    const foreign = !drains && isForeign(caller) ? this.#foreignOf(caller) : null
    // Another user's follower that comes again may have copies that nothing is added to any more.
    const own = foreign === null ? facts : { ...facts, serviceStartedAt: foreign.begunAt }
    welcome(caller.link, { ...own, capabilities: [FORWARDS_WRITES] })
    if (drains) this.#sendEnd(caller)
    const supply = foreign ?? this.#supply
    supply.add(caller, topOf(caller, own))
    if (caller.intent === 'follow') this.#followers.add(caller.link)
  }

  /** The older generations that drain, also those that connect again soon. */
  get draining(): Pick<Peer, 'pid' | 'identity' | 'proven' | 'pidfd'>[] {
    return [...this.#drainingCallers, ...this.#lost.all]
  }

  get #drainingCallers(): Caller[] {
    return [...this.#authors.values()].filter(drains).map(({ caller }) => caller)
  }

  /** A previous member has left its connection and lives: it connects as a draining generation, or ends. Borrows its pidfd. */
  noteLost(process: Pick<Peer, 'pid' | 'identity' | 'link' | 'proven' | 'pidfd'>): void {
    this.#lost.add(process, process.link.channel.foreignUser)
  }

  /** A process has connected, as a draining generation or as a member. */
  noteFound(identity: ProcessIdentity): void {
    this.#lost.remove(identity)
  }

  /** Makes all older generations close their connections within `timeoutMs` (null: as configured), and end; also those that begin to drain until another member serves. */
  endDraining(timeoutMs: number | null): void {
    const at = timeoutMs === null ? Number.POSITIVE_INFINITY : performance.now() + timeoutMs
    this.#ends = { of: this.#deps.writer.peer(), at }
    for (const caller of this.#drainingCallers) this.#sendEnd(caller)
  }

  #sendEnd({ link }: Caller): void {
    if (this.#ends === null) return
    const leftMs = Math.max(0, Math.ceil(this.#ends.at - performance.now()))
    orderToEnd(link, Math.min(leftMs, OWN_LIMIT))
  }

  /** The reports of the older generations that are no members any more: they have retired, or come from an earlier daemon. */
  get reports(): (DrainReport & Pick<Caller, 'link'>)[] {
    const members = this.#deps.writer.members()
    const found = []
    for (const { caller, report } of this.#authors.values())
      if (report !== null && !members.has(caller.identity)) found.push({ ...report, link: caller.link })
    return found.sort((a, b) => a.generation - b.generation)
  }

  #recordReport(author: Author, text: string): void {
    const { caller } = author
    const { onGivenUp, onReport, changed } = this.#deps.events
    const facts = parseReport(text)
    const { phase } = (facts ?? {}) as Partial<DrainReport>
    if (GIVEN_UP.has(phase)) onGivenUp(caller.identity)
    const before = author.report?.phase
    const generation = caller.hello.generation ?? 0
    const read = readDrainReport(facts, caller.pid)
    if (read !== null) author.report = { ...read, generation }
    if (author.report?.phase !== before) changed()
    onReport()
  }

  /** If another member has become the writer: asks the authors to repeat the changes that a hanging member has not answered. */
  writerChanged(): void {
    const writer = this.#deps.writer.peer()
    if (writer !== undefined && this.#ends !== null && this.#ends.of !== writer) this.#ends = null
    for (const [number, { peer }] of [...this.#inFlight])
      if (writer !== undefined && peer !== writer && this.#deps.writer.members().isSilent(peer))
        this.#settle(number, { outcome: Outcome.AGAIN })
    this.#followers.updateWriter()
  }

  /** Sends new segments to the followers. */
  share(): void {
    this.#supply.share()
    for (const followers of this.#foreign.values()) followers.refresh()
  }

  /** Handles a message of the writing member: the answer to a change, or the notice that it has appended records. */
  handle(peer: Peer, { appended, written }: WireEnvelope): void {
    if (appended) {
      this.#followers.notifyAll(peer)
      for (const followers of this.#foreign.values()) followers.refresh()
    }
    if (!written) return
    const underWay = this.#inFlight.get(written.number ?? 0)
    if (underWay?.peer === peer) this.#settle(written.number ?? 0, written)
  }

  /** The member has died or its channel has closed: the authors send its unanswered changes again. */
  forget(peer: Peer): void {
    for (const [number, underWay] of [...this.#inFlight])
      if (underWay.peer === peer) this.#settle(number, { outcome: Outcome.AGAIN })
  }

  close(): void {
    this.#lost.close()
    for (const caller of [...this.#authors.keys()]) this.#drop(caller)
  }

  /** Refuses an author. Logs only the first refusal, because refused processes retry often. */
  #refuse(caller: Caller): void {
    const { logger, name } = this.#deps
    const reason = `process ${caller.pid} would exceed the limit of ${MOST_AUTHORS} processes that follow the state of the service "${name}" or drain: let fewer members follow it, or end draining generations (drain.timeout)`
    const error = new FdbError('ERR_FDB_SERVICE_LIMIT', reason, {
      details: { service: name, limit: 'followers', most: MOST_AUTHORS },
    })
    const facts = { err: error, service: name, pid: caller.pid }
    if (!this.#full) logger.warn(facts, 'the daemon refused a process that follows or drains')
    this.#full = true
    turnAway(caller, error)
  }

  #forward(author: Author, write: Write): void {
    const number = write.number ?? 0
    const more = write.more ?? false
    if (author.cutShort.has(number)) {
      if (!more) author.cutShort.delete(number)
      return
    }
    if (!author.writes) {
      this.#end(author, number, more, {
        outcome: Outcome.REFUSED,
        code: 'ERR_FDB_DENIED',
        message: `process ${author.caller.pid} may follow "${this.#deps.name}", but not change it: the daemon's configuration does not allow it to join`,
        retryable: false,
      })
      return
    }
    const known = author.inFlight.get(number)
    const peer = known === undefined ? this.#deps.writer.peer() : this.#inFlight.get(known)!.peer
    // If the member's queue is crowded, the author sends the change again later: the remaining room is for messages that cannot be repeated.
    if (author.mustReconnect || peer === undefined || !peer.link.open || peer.link.channel.crowded) {
      this.#end(author, number, more, { outcome: Outcome.AGAIN })
      return
    }
    if (!peer.capabilities.has(FORWARDS_WRITES)) {
      this.#end(author, number, more, {
        outcome: Outcome.REFUSED,
        code: 'ERR_FDB_FENCED',
        message: `process ${peer.pid}, which has the right to write now, runs a release that does not accept forwarded changes: make the change in that process`,
        retryable: true,
      })
      return
    }
    const mapped = known ?? this.#next++
    this.#inFlight.set(mapped, { author, number, peer, more })
    author.inFlight.set(number, mapped)
    peer.link.send({ write: { ...write, number: mapped, source: author.source } }).catch(() => {
      // The member has not read for too long, or has left.
      this.#settle(mapped, { outcome: Outcome.AGAIN })
    })
  }

  #settle(mapped: number, written: Written): void {
    const underWay = this.#inFlight.get(mapped)
    if (underWay !== undefined) this.#end(underWay.author, underWay.number, underWay.more, written)
  }

  /** Answers a change. `more`: the author will send further pieces of it. */
  #end(author: Author, number: number, more: boolean, written: Written): void {
    const mapped = author.inFlight.get(number)
    if (mapped !== undefined) this.#removeInFlight(author, mapped)
    if (written.outcome === Outcome.AGAIN) author.mustReconnect = true
    author.caller.link.post({ written: { ...written, number } })
    if (more) author.cutShort.add(number)
    if (author.cutShort.size > MOST_CUT) this.#drop(author.caller)
  }

  /** Removes a change that is in flight. If the member has only a part of it, asks the member to drop that part. */
  #removeInFlight({ source, inFlight: underWay }: Author, mapped: number): void {
    const { number, peer, more } = this.#inFlight.get(mapped)!
    this.#inFlight.delete(mapped)
    underWay.delete(number)
    if (more) peer.link.post({ write: { number: mapped, source } })
  }

  #foreignOf({ uid }: Caller): ForeignFollowers {
    const known = this.#foreign.get(uid)
    if (known !== undefined) return known
    const { logger, name, state } = this.#deps
    const followers = new ForeignFollowers(state.segmentSet, () => state.most(), {
      drop: caller => this.#drop(caller),
      onFailure: err => {
        // The followers connect again and again.
        const now = performance.now()
        if (now - (this.#uncopied.get(uid) ?? Number.NEGATIVE_INFINITY) < LOG_MS) return
        this.#uncopied.set(uid, now)
        logger.warn(
          { err, service: name, uid },
          'the state cannot be copied for the followers of another user',
        )
      },
    })
    this.#foreign.set(uid, followers)
    return followers
  }

  #forgetForeign(caller: Caller): void {
    const followers = this.#foreign.get(caller.uid)
    followers?.remove(caller)
    if (followers?.size !== 0) return
    followers.close()
    this.#foreign.delete(caller.uid)
  }

  #drop(caller: Caller): void {
    const author = this.#authors.get(caller)
    this.#authors.delete(caller)
    if (this.#authors.size < MOST_AUTHORS / 2) this.#full = false
    this.#supply.forget(caller)
    this.#forgetForeign(caller)
    this.#followers.remove(caller.link)
    if (author !== undefined && drains(author) && !this.#deps.writer.members().has(caller.identity))
      this.noteLost(caller)
    dismiss(caller)
    for (const mapped of author?.inFlight.values() ?? []) this.#removeInFlight(author!, mapped)
    if (caller.intent !== 'follow') this.#deps.events.changed()
  }
}

/** Whether it is an older generation that may have connections. */
function drains({ caller, report }: Author): boolean {
  return caller.intent !== 'follow' && !ENDED.has(report?.phase)
}

/** Returns the highest epoch of which the caller has a segment. Segments of an ended service of the same name do not count. */
function topOf({ hello, intent }: Caller, { serviceStartedAt }: fdbroker.wire.Welcome.$Properties): Epoch {
  const another = intent === 'follow' && hello.serviceStartedAt !== serviceStartedAt
  return another ? 0 : (hello.top ?? 0)
}
