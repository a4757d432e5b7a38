import { afterReading } from '../base/after-reading.js'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { Id } from '../handoff/messages.js'
import { closeAll, hasEnded, type OwnedFd } from '../kernel/index.js'
import { lineageOf } from '../os/lineage.js'
import { isAlive, isSame, watchProcess } from '../os/process-identity.js'
import type { BundleItem } from '../wire/bundle.js'
import { peerLeft, type WireEnvelope } from '../wire/link.js'
import { type Caller, reject, turnAway } from './admission.js'
import type { Peer } from './peer.js'
import type { HandoffTimes } from './times.js'

export interface Candidate extends Pick<Caller, 'link' | 'pid' | 'identity' | 'proven' | 'pidfd'> {
  readonly generation: number
  /** Daemon: the limits that the process wants as the incumbent. */
  readonly times?: Partial<HandoffTimes>
  readonly capabilities?: readonly string[]
  /** Daemon: the path of the state file. */
  readonly stateFile?: string
}

interface PeersHandler {
  /** The handler owns the descriptors. */
  message(peer: Peer, envelope: WireEnvelope, fds: OwnedFd[]): void
  /** The handler owns the descriptors. */
  bundle(peer: Peer, items: BundleItem[]): void
  lost(peer: Peer): void
  /** The peer has reconnected although its old channel was open; the old one is closed now. */
  replaced(peer: Peer): void
  died(peer: Peer): void
  /** No further event of the peer follows. */
  forgotten(peer: Peer): void
}

/** The processes that are connected to a holder. Owns their links, their pidfds and their death watches. */
export class Peers {
  readonly #handler: PeersHandler
  readonly #logger: Logger
  readonly #peers = new Map<Id, Peer>()
  /** Ids count from 1. In a member's own holder 0 is the member itself. */
  #nextId: Id = 1
  #hadForeign = false

  constructor(parts: { handler: PeersHandler; logger: Logger }) {
    this.#handler = parts.handler
    this.#logger = parts.logger
  }

  get all(): Peer[] {
    return [...this.#peers.values()]
  }

  /** Peers that have descriptors of this holder, and to which it can send now. */
  get reachable(): Peer[] {
    return this.all.filter(peer => peer.holds && !peer.returning && peer.link.open)
  }

  /** Whether a process of another user has ever been among them: it may keep what it has received. */
  get hadForeign(): boolean {
    return this.#hadForeign
  }

  get(id: Id): Peer | undefined {
    return this.#peers.get(id)
  }

  /** Owns link and pidfd. Rejects the candidate and returns null if it cannot be watched, for example because this process has reached its limit of open files. */
  add(candidate: Candidate): Peer | null {
    const id = this.#nextId++
    const peer = newPeer(id, candidate)
    try {
      peer.watch = watchProcess(candidate.pidfd, candidate.identity, () => this.#died(peer))
    } catch (error) {
      turnAway(candidate, FdbError.from(error))
      return null
    }
    this.#peers.set(id, peer)
    this.#hadForeign ||= peer.link.channel.foreignUser !== undefined
    this.#listen(peer)
    return peer
  }

  /** Gives a known peer its new link, or adds an unknown one. Owns link and pidfd. */
  readmit(candidate: Candidate): void {
    const known = this.all.find(
      p => isSame(p.identity, candidate.identity) && p.generation === candidate.generation && !p.forgotten,
    )
    if (known === undefined) {
      const peer = this.add(candidate)
      if (peer === null) return
      peer.holds = true
      peer.returning = true
      return
    }
    if (known.link.open) {
      known.link.close()
      this.#handler.replaced(known)
    }
    known.link = candidate.link
    known.returning = true
    known.times = candidate.times ?? {}
    known.capabilities = new Set(candidate.capabilities)
    candidate.pidfd?.close()
    this.#listen(known)
  }

  /** Sends the reason, then closes the link. The process may connect again. */
  refuse(peer: Peer, error: FdbError): void {
    reject(peer.link, error)
    this.#remove(peer)
  }

  /** Idempotent. */
  forget(peer: Peer): void {
    if (peer.forgotten) return
    peer.link.close()
    this.#remove(peer)
  }

  /** Reports the processes that have ended and whose links are read to the end. Called before a join, because a dead peer could block it. */
  reportDeaths(): void {
    for (const peer of this.all) {
      if (peer.forgotten || peer.link.open) continue
      if (peer.pidfd === null ? isAlive(peer.identity) : !hasEnded(peer.pidfd)) continue
      peer.watch?.close()
      this.#noteDeath(peer)
      this.#handler.died(peer)
    }
  }

  close(): void {
    for (const peer of this.all) this.forget(peer)
  }

  #remove(peer: Peer): void {
    peer.forgotten = true
    peer.watch?.close()
    this.#peers.delete(peer.id)
    this.#handler.forgotten(peer)
    peer.pidfd?.close()
  }

  #listen(peer: Peer): void {
    const { link } = peer
    const handler = this.#handler
    link.start({
      message: (envelope, fds) => {
        if (peer.forgotten) closeAll(fds)
        else handler.message(peer, envelope, fds)
      },
      bundle: items => {
        if (peer.forgotten) closeAll(items.map(item => item.fd))
        else handler.bundle(peer, items)
      },
      broken: error => {
        peer.reason = error
        this.#logger.warn(
          { err: error, pid: peer.pid },
          'a peer violates the protocol; its channel is closed',
        )
        link.close()
        handler.lost(peer)
      },
      end: error => {
        if (peer.link !== link) return
        if (error !== null && !peerLeft(error)) peer.reason ??= error
        handler.lost(peer)
      },
    })
  }

  #noteDeath(peer: Peer): void {
    peer.watch = null
    peer.died = true
    peer.reason ??= new FdbError('ERR_FDB_SUCCESSOR_DIED', `process ${peer.pid} has died`)
  }

  #died(peer: Peer): void {
    this.#noteDeath(peer)
    const handle = () => {
      // A process of another user may have to wait until it is read.
      if (!peer.forgotten && peer.link.open) peer.link.channel.readNow()
      if (!peer.forgotten) this.#handler.died(peer)
    }
    // First read the last messages of the process, which may say why it ended.
    afterReading(0, handle, { unref: true })
  }
}

function newPeer(id: Id, candidate: Candidate): Peer {
  const { pid, generation, identity, proven, link, pidfd, times = {} } = candidate
  const { capabilities, stateFile = '' } = candidate
  const now = performance.now()
  return {
    id,
    pid,
    generation,
    lineage: lineageOf(identity),
    identity,
    proven,
    times,
    capabilities: new Set(capabilities),
    stateFile,
    link,
    pidfd,
    watch: null,
    holds: false,
    returning: false,
    sendsHeartbeats: false,
    heartbeatAt: now,
    healthyAt: now,
    healthy: true,
    healthProblem: '',
    report: null,
    rollsBack: false,
    position: null,
    reason: null,
    adopted: new Set(),
    refused: new Set(),
    lateNames: new Set(),
    forgotten: false,
    served: false,
    died: false,
  }
}
