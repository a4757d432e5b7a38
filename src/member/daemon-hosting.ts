import type { FdbError } from '../errors.js'
import type { Cancelled } from '../holder/cancel.js'
import type { Entry } from '../holder/registry.js'
import type { Operations } from '../operator/requests.js'
import type { Segment } from '../state/segment.js'
import type { StateLog } from '../state/state-log.js'
import type { BundleItem } from '../wire/bundle.js'
import type { WireEnvelope } from '../wire/link.js'
import { AppendNotice, Growth } from './growth.js'
import type { Heartbeat } from './heartbeat.js'
import type { Hosting } from './hosting.js'
import type { JoinedHolder } from './joined-holder.js'
import { OperatorRequests } from './operator-requests.js'
import { reconnectToDaemon } from './reconnect.js'
import { Registrations } from './registrations.js'
import type { Shared } from './shared.js'

export interface DaemonHostingParts {
  readonly shared: Shared
  readonly joined: JoinedHolder
  readonly heartbeat: Heartbeat
  /** What its operators ask of this process. */
  readonly operations: Operations
  readonly state: StateLog
  /** Throws when nothing can be taken in any more. */
  readonly refuseLeft: () => void
  /** The process that serves takes no connections of this one. */
  readonly nobodyTakes: () => void
  /** The handoff in which this process came to serve cannot be undone any more. */
  readonly settled: () => void
}

/** A daemon decides, and goes on deciding; this process comes back to it when the channel is lost. */
export class DaemonHosting implements Hosting {
  readonly holder = null
  readonly blockedBy = []
  readonly stuckIncumbent = null
  readonly released = false
  readonly mergesAtOnce = false
  readonly #parts: DaemonHostingParts
  readonly #registrations = new Registrations()
  readonly #requests: OperatorRequests
  readonly #growth: Growth
  readonly #appends: AppendNotice
  #returning: AbortController | null = null
  /** Nobody can come back in this process's place. */
  #settled = false

  constructor(parts: DaemonHostingParts) {
    this.#parts = parts
    const { joined, operations, shared, state } = parts
    const { changes, machine, settings, shelf } = shared
    this.#requests = new OperatorRequests(operations, state, () => joined.link)
    this.#growth = new Growth({
      shelf,
      renewBytes: settings.stateLimits.renewBytes,
      written: () => (machine.phase === 'serving' ? machine.member.epoch : null),
      amidBulk: () => state.amidBulk,
      ask: () => joined.tell({ renew: {} }),
      changes,
    })
    this.#appends = new AppendNotice(state.appended, () => joined.tell({ appended: {} }))
  }

  /** As far as this process knows: the daemon does. */
  get standsBy(): boolean {
    const { phase, source } = this.#parts.shared.machine.member
    return (phase === 'serving' || phase === 'leaving') && source !== 0 && !this.#settled
  }

  get hearsReports(): boolean {
    return this.takesWrites
  }

  /** The daemon answers for a member that takes none. */
  get takesWrites(): boolean {
    return this.#parts.joined.facts?.forwardsWrites ?? false
  }

  hear(envelope: WireEnvelope): boolean {
    const { moveRequest, registered, tellAppended } = envelope
    if (moveRequest) {
      this.#parts.nobodyTakes()
      return true
    }
    if (tellAppended) {
      this.#appends.want(tellAppended.wanted ?? false)
      return true
    }
    if (!registered) return this.#requests.take(envelope)
    this.#registrations.answered(registered)
    return true
  }

  heardReleased(): void {
    const { settled, shared } = this.#parts
    this.#settled = true
    if (shared.machine.phase === 'serving') settled()
    else shared.departure.hear('released')
  }

  silent(): void {
    this.#parts.shared.machine.step({ type: 'silent' })
  }

  heard(): void {
    this.#parts.shared.machine.step({ type: 'heard' })
  }

  lost(): void {}

  /** A way for connections comes from the daemon. */
  reported(): void {}

  /** The daemon keeps it too, so that it outlives this process. */
  keep(entry: Entry): void | Promise<void> {
    if (this.#parts.joined.holder !== null) return this.#keep(entry)
  }

  drop(name: string): void {
    this.#parts.joined.tell({ register: { drop: true, item: { name } } })
  }

  /** The daemon sees to it. */
  giveUp(): void {}

  settleFormer(): void {}

  async renew(): Promise<void> {
    await this.#growth.renewed()
  }

  async shelve(snapshot: Segment): Promise<void> {
    const { machine, shelf } = this.#parts.shared
    if (machine.phase !== 'serving') return
    await this.#give([{ role: 'segment', epoch: snapshot.epoch, writable: false, fd: snapshot.fd }])
    shelf.replaceUpTo(snapshot.dup())
  }

  askForMove(): void {
    this.#parts.joined.tell({ moveRequest: {} })
  }

  cancelHandoff(reason: FdbError): Promise<Cancelled> {
    return this.#requests.cancelHandoff(reason)
  }

  /** Operators ask the daemon itself. */
  async killStuck(): Promise<void> {}

  /** The daemon reads this before it hears that we have gone. */
  async releaseStandby(): Promise<void> {
    const { joined, shared } = this.#parts
    this.#settled = true
    if (shared.machine.member.link === 'up') joined.tell({ endProbation: { closing: true } })
  }

  /** No machine asks for it: the daemon decides. */
  becomeHolder(): void {}

  /** The channel is lost: the daemon may live, or have been restarted. */
  reconnect(): void {
    const { heartbeat, joined, shared } = this.#parts
    const { departure, generation, machine, settings } = shared
    this.#returning?.abort()
    const returning = new AbortController()
    this.#returning = returning
    const old = joined.holder
    if (old === null) return
    old.link.close()
    void reconnectToDaemon(settings, old, generation, returning.signal).then(link => {
      if (link === null || departure.over) {
        link?.close()
        return
      }
      const restarted = link.facts.incarnation !== old.facts.incarnation
      old.close()
      joined.attach(link)
      machine.step({ type: 'reconnected', restarted, sealed: machine.sealed })
      // Behind what is said of all that is held.
      this.#registrations.again(link.link, settings.timeout)
      heartbeat.start()
    })
    void old.fate().then(fate => {
      if (fate === 'dead' && joined.holder === old)
        machine.step({ type: 'fate', fate, sealed: machine.sealed })
    })
  }

  fail(why: FdbError): void {
    this.#registrations.fail(why)
  }

  close(): void {
    this.#requests.close()
    this.#growth.close()
    this.#appends.close()
    this.#returning?.abort()
  }

  async #keep(entry: Entry): Promise<void> {
    try {
      await this.#give([entry])
      this.#parts.refuseLeft()
    } catch (error) {
      entry.fd.close()
      this.#takeBackFrom(entry.name)
      throw error
    }
  }

  /** The daemon may have taken it, only too late for us. */
  #takeBackFrom(name: string): void {
    const { registry, wanted } = this.#parts.shared
    const present = registry.get(name)
    if (present !== undefined && wanted.has(name)) this.#give([present]).catch(() => {})
    else this.drop(name)
  }

  async #give(items: readonly BundleItem[]): Promise<void> {
    const { joined, shared } = this.#parts
    const link = joined.link
    if (link !== undefined) await this.#registrations.send(link, items, shared.settings.timeout)
  }
}
