import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import type { Epoch } from '../../handoff/messages.js'
import type { MemberPhase } from '../../handoff/phases.js'
import { type Caller, dismiss, isForeign, turnAway, welcome } from '../../holder/admission.js'
import { parseReport } from '../../holder/message-handler.js'
import type { Peer } from '../../holder/peer.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { SegmentSupply } from '../../holder/segment-supply.js'
import { closeAll } from '../../kernel/index.js'
import { type DrainReport, readKeptBy } from '../../operator/status-report.js'
import type { ProcessIdentity } from '../../os/process-identity.js'
import { fdbroker } from '../../proto/wire.js'
import { FORWARDS_WRITES, type WireEnvelope } from '../../wire/link.js'
import { Followers, ForeignFollowers, noStateYet } from './followers.js'

const { Outcome } = fdbroker.wire.Written
/** All workers follow twice while all are replaced; more authors, with those that drain, are a mistake. */
export const MOST_AUTHORS = 1_024
/** Changes of one author that were answered in their middle, and whose ends have not come: it sends one after the other. */
const MOST_CUT = 64

/** Phases from which a member does not come back. */
const GIVEN_UP: ReadonlySet<unknown> = new Set<MemberPhase>(['leaving', 'gone'])

type Write = fdbroker.wire.Write.$Properties
type Written = fdbroker.wire.Written.$Properties

/** A draining generation that is connected, or one that follows. */
interface Author {
  readonly caller: Caller
  /** Its changes are passed on. */
  readonly writes: boolean
  /** Names it to the members, once for each connection. */
  readonly source: number
  /** Changes that are on their way to a member: its numbers, and ours. */
  readonly inFlight: Map<number, number>
  /** Changes that were answered before their last piece came: what still comes of them is no other change. */
  readonly cutShort: Set<number>
  /** It was told AGAIN, and is until it connects anew: a later change must not be made before an earlier one. */
  mustReconnect: boolean
  /** Its process has retired and lives on; null: it drains, or follows. */
  retired: DrainReport | null
}

/** A change that a member has, or has in part. */
interface InFlightWrite {
  readonly author: Author
  readonly number: number
  readonly peer: Peer
  /** Its last piece has not come yet. */
  more: boolean
}

export interface WriteTarget {
  readonly name: string
  readonly logger: Logger
  readonly segmentSet: SegmentSet
  /** A member has come to serve, and it is known which. */
  hasState(): boolean
  /** The member that may write, if it can be asked. */
  writer(): Peer | undefined
  /** It hangs, as far as is known. */
  isSilent(peer: Peer): boolean
  /** It drains for good: it has no right any more, whatever a daemon before this one had heard of it. */
  onGivenUp(process: ProcessIdentity): void
}

/**
 * A daemon's part in changes of draining generations and of followers: it passes them on to the member that serves, and its answers back.
 * Changes that a dead member had not answered are sent again, by their author.
 */
export class ForwardedWrites {
  readonly #target: WriteTarget
  readonly #supply: SegmentSupply
  readonly #followers: Followers
  /** By user. */
  readonly #foreign = new Map<number, ForeignFollowers>()
  readonly #authors = new Map<Caller, Author>()
  readonly #inFlight = new Map<number, InFlightWrite>()
  /** It was logged that there are too many. */
  #full = false
  #source = 0
  #next = 1

  constructor(target: WriteTarget) {
    this.#target = target
    this.#supply = new SegmentSupply(target.segmentSet, caller => this.#drop(caller))
    this.#followers = new Followers(() => target.writer())
  }

  /** A generation that drains has connected, or one that follows. `writes`: it may change the state. Takes the caller. */
  add(caller: Caller, facts: fdbroker.wire.Welcome.$Properties, writes: boolean): void {
    if (caller.intent === 'follow' && !this.#target.hasState()) {
      turnAway(caller, noStateYet(caller.hello.service ?? ''))
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
      retired: null,
    }
    this.#authors.set(caller, author)
    const drains = caller.intent !== 'follow'
    caller.link.channel.unref()
    caller.link.start({
      message: ({ write, heartbeat }, fds) => {
        closeAll(fds)
        if (write) this.#forward(author, write)
        if (heartbeat && drains) this.#recordReport(author, heartbeat.report ?? '')
      },
      broken: () => this.#drop(caller),
      end: () => this.#drop(caller),
    })
    welcome(caller.link, { ...facts, capabilities: [FORWARDS_WRITES] })
    if (caller.intent === 'follow' && isForeign(caller))
      this.#foreignOf(caller).add(caller, topOf(caller, facts))
    else this.#supply.add(caller, topOf(caller, facts))
    if (caller.intent === 'follow') this.#followers.add(caller.link)
  }

  get retired(): DrainReport[] {
    return [...this.#authors.values()].flatMap(({ retired }) => retired ?? [])
  }

  #recordReport(author: Author, text: string): void {
    const { caller } = author
    const { phase, keptBy } = (parseReport(text) ?? {}) as Partial<DrainReport>
    if (GIVEN_UP.has(phase)) this.#target.onGivenUp(caller.identity)
    if (phase !== 'retired') return
    const generation = caller.hello.generation ?? 0
    author.retired = { pid: caller.pid, generation, phase, connections: 0, ...readKeptBy(keptBy) }
  }

  /** Another member may write by now. One that hung before will not answer: its changes are sent again. */
  writerChanged(): void {
    const writer = this.#target.writer()
    for (const [number, { peer }] of [...this.#inFlight])
      if (writer !== undefined && peer !== writer && this.#target.isSilent(peer))
        this.#settle(number, { outcome: Outcome.AGAIN })
    this.#followers.updateWriter()
  }

  /** New segments were made. */
  share(): void {
    this.#supply.share()
    for (const followers of this.#foreign.values()) followers.refresh()
  }

  /** A message of the member that writes: about a change, or that it has appended. */
  handle(peer: Peer, { appended, written }: WireEnvelope): void {
    if (appended) {
      this.#followers.notifyAll(peer)
      for (const followers of this.#foreign.values()) followers.refresh()
    }
    if (!written) return
    const underWay = this.#inFlight.get(written.number ?? 0)
    if (underWay?.peer === peer) this.#settle(written.number ?? 0, written)
  }

  /** This member is gone, or its channel is. */
  forget(peer: Peer): void {
    for (const [number, underWay] of [...this.#inFlight])
      if (underWay.peer === peer) this.#settle(number, { outcome: Outcome.AGAIN })
  }

  close(): void {
    for (const caller of [...this.#authors.keys()]) this.#drop(caller)
  }

  /** A refused process tries again, often: it is logged once. */
  #refuse(caller: Caller): void {
    const { logger, name } = this.#target
    const why = `${MOST_AUTHORS} processes follow the state of the service "${name}", or drain, and process ${caller.pid} would be one more: have fewer members follow it, or end generations that drain (drain.timeout)`
    const error = new FdbError('ERR_FDB_SERVICE_LIMIT', why, {
      details: { service: name, limit: 'followers', most: MOST_AUTHORS },
    })
    if (!this.#full) logger.warn({ err: error, service: name, pid: caller.pid }, 'a process cannot follow')
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
        message: `process ${author.caller.pid} may follow "${this.#target.name}", and not change it: the daemon's configuration does not allow it to join`,
        retryable: false,
      })
      return
    }
    const begun = author.inFlight.get(number)
    const peer = begun === undefined ? this.#target.writer() : this.#inFlight.get(begun)!.peer
    // A change can be sent another time: it leaves the rest of the way to what cannot, and is never lost in its middle.
    if (author.mustReconnect || peer === undefined || !peer.link.open || peer.link.channel.crowded) {
      this.#end(author, number, more, { outcome: Outcome.AGAIN })
      return
    }
    if (!peer.capabilities.has(FORWARDS_WRITES)) {
      this.#end(author, number, more, {
        outcome: Outcome.REFUSED,
        code: 'ERR_FDB_FENCED',
        message: `process ${peer.pid} has the right to write now, and is of a version that takes no changes of others: repeat the change there`,
        retryable: true,
      })
      return
    }
    const mapped = begun ?? this.#next++
    this.#inFlight.set(mapped, { author, number, peer, more })
    author.inFlight.set(number, mapped)
    peer.link.send({ write: { ...write, number: mapped, source: author.source } }).catch(() => {
      // It has not read for too long, or has gone.
      this.#settle(mapped, { outcome: Outcome.AGAIN })
    })
  }

  #settle(mapped: number, written: Written): void {
    const underWay = this.#inFlight.get(mapped)
    if (underWay !== undefined) this.#end(underWay.author, underWay.number, underWay.more, written)
  }

  /** Answers a change, of which `more` is still to come from its author. */
  #end(author: Author, number: number, more: boolean, written: Written): void {
    const mapped = author.inFlight.get(number)
    if (mapped !== undefined) this.#removeInFlight(author, mapped)
    if (written.outcome === Outcome.AGAIN) author.mustReconnect = true
    author.caller.link.post({ written: { ...written, number } })
    if (more) author.cutShort.add(number)
    if (author.cutShort.size > MOST_CUT) this.#drop(author.caller)
  }

  /** It is not under way any more: a member that has it in part may forget that. */
  #removeInFlight({ source, inFlight: underWay }: Author, mapped: number): void {
    const { number, peer, more } = this.#inFlight.get(mapped)!
    this.#inFlight.delete(mapped)
    underWay.delete(number)
    if (more) peer.link.post({ write: { number: mapped, source } })
  }

  #foreignOf({ uid }: Caller): ForeignFollowers {
    const known = this.#foreign.get(uid)
    if (known !== undefined) return known
    const followers = new ForeignFollowers(this.#target.segmentSet, caller => this.#drop(caller))
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
    dismiss(caller)
    for (const mapped of author?.inFlight.values() ?? []) this.#removeInFlight(author!, mapped)
  }
}

/** A follower that holds the segments of a service that has ended has none of this one. */
function topOf({ hello, intent }: Caller, { serviceStartedAt }: fdbroker.wire.Welcome.$Properties): Epoch {
  const another = intent === 'follow' && hello.serviceStartedAt !== serviceStartedAt
  return another ? 0 : (hello.top ?? 0)
}
