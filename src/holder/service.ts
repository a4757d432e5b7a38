import { FdbError } from '../errors.js'
import { closeAll, formatAddress, inspect, type OwnedFd } from '../fd/index.js'
import type { BundleItem } from '../protocol/bundle.js'
import { NOBODY } from '../protocol/conversation.js'
import { EffectQueue } from '../protocol/effect-queue.js'
import {
  type HolderEffect,
  type HolderEvent,
  type HolderState,
  initialHolder,
  restartedHolder,
  stepHolder,
} from '../protocol/holder-machine.js'
import type { WireEnvelope } from '../protocol/link.js'
import { Segment } from '../state/segment.js'
import { type Guest, reject, welcome } from './admission.js'
import { Holder } from './holder.js'
import type { Upgraded, UpgradeOrder, UpgradeProgress } from './operator.js'
import type { HandoffTimes, Logger } from './options.js'
import type { Peer } from './peer.js'
import { type Entry, Registry } from './registry.js'
import type { ServiceRecord } from './rights-holders.js'
import { SegmentShelf } from './segment-shelf.js'

const STATUS_MS = 1_000
/** How long a restarted daemon waits for rights-holders that it cannot watch (another PID namespace). */
const REBUILD_MS = 5_000

/** One service that a daemon holds: its registry, its segments and its holder's machine. */
export class Service {
  readonly name: string
  readonly #times: HandoffTimes
  readonly #logger: Logger
  readonly #incarnation: string
  readonly #changed: () => void
  readonly #registry = new Registry()
  readonly #shelf = new SegmentShelf()
  readonly #queue: EffectQueue<HolderEffect>
  readonly #holder: Holder
  /** Descriptors that a member has sent and not yet named by Register or Back. */
  readonly #arrived = new Map<Peer, BundleItem[]>()
  /** What a joiner has registered; the service's own from its commit on. */
  readonly #staged = new Map<Peer, Map<string, Entry>>()
  readonly #asked = new Map<Peer, (json: string) => void>()
  readonly #upgrades = new Map<
    Peer,
    { progress(step: UpgradeProgress): void; done(result: Upgraded | FdbError): void }
  >()
  #machine: HolderState
  #generation: number
  #startedAt: number
  /** Restarted: who may still be alive, by pid. */
  #expected: Set<number>
  #rebuildTimer: NodeJS.Timeout | undefined

  constructor(
    parts: { times: HandoffTimes; logger: Logger; incarnation: string; changed: () => void },
    record: ServiceRecord,
  ) {
    this.name = record.service
    this.#times = parts.times
    this.#logger = parts.logger
    this.#incarnation = parts.incarnation
    this.#changed = parts.changed
    this.#generation = record.generation
    this.#startedAt = record.startedAt
    this.#expected = new Set(record.members.map(member => member.pid))
    this.#machine = this.#expected.size > 0 ? restartedHolder() : initialHolder('member', NOBODY, 0, 0)
    this.#queue = new EffectQueue(
      effect => this.#holder.perform(effect),
      (effect, error) =>
        this.#logger.error(
          { err: error, effect: effect.type, service: this.name },
          'a step of the handoff failed',
        ),
    )
    this.#holder = new Holder({
      hosting: {
        state: () => this.#machine,
        dispatch: event => this.#dispatch(event),
        extraItems: () => [],
        position: () => null,
        settled: peer => this.#settled(peer),
        changed: () => this.#noteChange(),
        other: (peer, envelope, fds) => this.#onOther(peer, envelope, fds),
        bundle: (peer, items) => this.#onBundle(peer, items),
        takeBack: peer => this.#takeBack(peer),
        forgotten: peer => this.#forgotten(peer),
      },
      registry: this.#registry,
      shelf: this.#shelf,
      times: parts.times,
      logger: parts.logger,
      firstId: 1,
    })
    if (this.#expected.size > 0) this.#rebuildTimer = setTimeout(() => this.#rebuilt(), REBUILD_MS)
  }

  /** What a restarted daemon would have to know. */
  get record(): ServiceRecord {
    const { owner, joiner, elder, bound } = this.#machine
    const members = [owner, joiner, elder, ...bound].flatMap(id => {
      const peer = this.#holder.peer(id)
      return peer?.holds ? [{ pid: peer.pid }] : []
    })
    return { service: this.name, generation: this.#generation, startedAt: this.#startedAt, members }
  }

  join(guest: Guest): void {
    if (this.#machine.phase === 'rebuilding') {
      guest.pidfd?.close()
      reject(
        guest.link,
        new FdbError(
          'ERR_FDB_BUSY',
          `the daemon was restarted and waits for processes ${[...this.#expected].join(', ')}: try again`,
          { retryable: true },
        ),
      )
      return
    }
    const generation = this.#generation + 1
    this.#welcome(guest, generation)
    const { link, pid, pidfd } = guest
    this.#holder.admit({ link, pid, pidfd, generation })
  }

  back(guest: Guest): void {
    const generation = guest.hello.generation ?? 0
    this.#generation = Math.max(this.#generation, generation)
    this.#welcome(guest, generation)
    const { link, pid, pidfd } = guest
    this.#holder.readmit({ link, pid, pidfd, generation })
  }

  #welcome(guest: Guest, generation: number): void {
    welcome(guest.link, {
      version: guest.version,
      pid: process.pid,
      daemon: true,
      incarnation: this.#incarnation,
      generation,
      serviceStartedAt: this.#startedAt,
    })
  }

  async status(): Promise<object> {
    const entries = this.#registry.entries
    const identities = inspect(entries.map(entry => entry.fd))
    const owner = this.#holder.peer(this.#machine.owner)
    const answer = owner === undefined ? null : await this.#askStatus(owner)
    const facts = {
      service: this.name,
      hosting: 'daemon',
      generation: owner?.generation ?? this.#generation,
      pid: owner?.pid ?? null,
      epoch: this.#machine.epoch,
      phase: this.#machine.phase,
      serviceStartedAt: new Date(this.#startedAt).toISOString(),
      uptimeSeconds: Math.max(0, (Date.now() - this.#startedAt) / 1000),
      listeners: entries
        .map((entry, i) => ({
          name: entry.name,
          role: entry.role,
          address: formatAddress(identities[i]!),
          inode: identities[i]!.ino,
          cookie: identities[i]!.cookie ?? null,
        }))
        .filter(entry => entry.role === 'listener'),
      draining: this.#holder.peers
        .filter(
          peer => peer.id !== this.#machine.owner && peer.id !== this.#machine.joiner && peer.report !== null,
        )
        .map(peer => peer.report),
      held: entries.filter(entry => entry.role === 'named').map(entry => entry.name),
      segments: this.#shelf.all.length,
      logBytes: this.#shelf.all.reduce((sum, segment) => sum + segment.size(), 0),
      lastFailure: this.#holder.timeline.lastFailure,
      blockedBy: this.#machine.bound.map(id => this.#holder.peer(id)?.pid ?? 0),
      handoffs: this.#holder.timeline.records,
    }
    return answer === null
      ? facts
      : { ...answer, ...facts, draining: facts.draining, listeners: merged(facts.listeners, answer) }
  }

  /** Has the member that serves start its successor, which joins here. */
  upgrade(order: UpgradeOrder, progress: (step: UpgradeProgress) => void): Promise<Upgraded> {
    const owner = this.#holder.peer(this.#machine.owner)
    if (owner === undefined || !owner.link.open || this.#upgrades.has(owner)) {
      const why =
        owner === undefined ? 'no member serves: start one' : `process ${owner.pid} cannot be asked now`
      return Promise.reject(new FdbError('ERR_FDB_BUSY', `${this.name}: ${why}`, { retryable: true }))
    }
    return new Promise((resolve, reject) => {
      this.#upgrades.set(owner, {
        progress,
        done: result => {
          this.#upgrades.delete(owner)
          if (result instanceof FdbError) reject(result)
          else resolve(result)
        },
      })
      owner.link.tell({ upgradeRequest: { argv: [...order.argv], timeoutMs: order.timeoutMs } })
    })
  }

  close(): void {
    clearTimeout(this.#rebuildTimer)
    this.#holder.close()
    for (const items of this.#arrived.values()) closeAll(items.map(item => item.fd))
    this.#registry.close()
    this.#shelf.close()
  }

  #dispatch(event: HolderEvent): void {
    const { phase } = this.#machine
    const { state, effects } = stepHolder(this.#machine, event)
    this.#machine = state
    this.#queue.push(effects)
    this.#holder.stepped()
    if (phase === 'probation' && state.phase === 'idle') this.#dropUnwanted()
    if (state.phase === 'rebuilding') this.#tryRebuilt()
    this.#failUpgrades(effects)
    this.#noteChange()
  }

  #noteChange(): void {
    this.#changed()
  }

  // ---- what members bring

  #onBundle(peer: Peer, items: BundleItem[]): void {
    const waiting = this.#arrived.get(peer) ?? []
    this.#arrived.set(peer, [...waiting, ...items])
  }

  #onOther(peer: Peer, envelope: WireEnvelope, fds: OwnedFd[]): boolean {
    closeAll(fds)
    const { register, status, progress, result } = envelope
    if (register) this.#register(peer, register.request ?? 0)
    else if (status) this.#asked.get(peer)?.(status.json ?? '')
    else if (progress) {
      this.#upgrades
        .get(peer)
        ?.progress({ phase: progress.phase ?? '', at: progress.at ?? 0, pid: progress.pid ?? 0 })
    } else if (result) {
      const { ok, code, message, pid, generation } = result
      const upgrade = this.#upgrades.get(peer)
      if (ok) upgrade?.done({ pid: pid ?? 0, generation: generation ?? 0 })
      else upgrade?.done(new FdbError((code || 'ERR_FDB_INTERNAL') as `ERR_FDB_${string}`, message ?? ''))
    } else return false
    return true
  }

  /** Takes what the member has just sent: at once from who serves, at its commit from a joiner. */
  #register(peer: Peer, request: number): void {
    const items = this.#arrived.get(peer) ?? []
    this.#arrived.delete(peer)
    let failure: FdbError | null = null
    for (const { role, name = '', spec = '', epoch = 0, fd } of items) {
      try {
        if (role === 'segment') this.#takeCompacted(epoch, fd)
        else if (role !== 'listener' && role !== 'named') fd.close()
        else if (peer.id === this.#machine.owner) this.#own(peer, { name, role, spec, fd })
        else this.#stage(peer, { name, role, spec, fd })
      } catch (error) {
        failure = FdbError.is(error) ? error : new FdbError('ERR_FDB_INTERNAL', String(error))
      }
    }
    peer.link.tell({ registered: { request, code: failure?.code ?? '', message: failure?.message ?? '' } })
  }

  #own(peer: Peer, entry: Entry): void {
    this.#registry.put(entry)
    peer.adopted = [...peer.adopted, entry.name]
  }

  #stage(peer: Peer, entry: Entry): void {
    const staged = this.#staged.get(peer) ?? new Map<string, Entry>()
    this.#staged.set(peer, staged)
    staged.get(entry.name)?.fd.close()
    staged.set(entry.name, entry)
  }

  /** The member that serves has merged what is sealed: one segment in place of many, unless a handoff counts on them. */
  #takeCompacted(epoch: number, fd: OwnedFd): void {
    const snapshot = Segment.open(fd)
    if (this.#machine.phase === 'idle' && snapshot.kind === 'snapshot' && epoch < this.#machine.epoch)
      this.#shelf.replaceUpTo(snapshot)
    else snapshot.close()
  }

  #settled(peer: Peer): void {
    if (peer.id !== this.#machine.owner) return
    this.#generation = Math.max(this.#generation, peer.generation)
    const staged = this.#staged.get(peer)
    this.#staged.delete(peer)
    for (const entry of staged?.values() ?? []) this.#own(peer, entry)
    if (this.#machine.phase === 'idle') this.#dropUnwanted()
  }

  /** Nobody can come back any more: what the version that serves did not ask for is closed. */
  #dropUnwanted(): void {
    const owner = this.#holder.peer(this.#machine.owner)
    if (owner === undefined) return
    for (const name of this.#registry.names) if (!owner.adopted.includes(name)) this.#registry.drop(name)
  }

  #forgotten(peer: Peer): void {
    closeAll((this.#arrived.get(peer) ?? []).map(item => item.fd))
    this.#arrived.delete(peer)
    closeAll([...(this.#staged.get(peer)?.values() ?? [])].map(entry => entry.fd))
    this.#staged.delete(peer)
    this.#upgrades
      .get(peer)
      ?.done(new FdbError('ERR_FDB_CHANNEL_CLOSED', `process ${peer.pid} ended before it answered`))
    this.#expected.delete(peer.pid)
    if (this.#machine.phase === 'rebuilding') this.#tryRebuilt()
  }

  #failUpgrades(effects: readonly HolderEffect[]): void {
    if (!effects.some(effect => effect.type === 'failed')) return
    const failure = this.#holder.timeline.lastFailure
    if (failure === null) return
    for (const upgrade of [...this.#upgrades.values()]) {
      upgrade.done(
        new FdbError(
          failure.code as `ERR_FDB_${string}`,
          `${failure.message} (phase ${failure.phase}; the incumbent serves on)`,
        ),
      )
    }
  }

  // ---- after a restart

  /** A member that came back has sent all it holds, then Back. Take it before the machine decides. */
  #takeBack(peer: Peer): void {
    const items = this.#arrived.get(peer) ?? []
    this.#arrived.delete(peer)
    for (const { role, name = '', spec = '', writable = false, fd } of items) {
      if (role === 'segment') this.#shelf.put(Segment.open(fd), writable)
      else if ((role === 'listener' || role === 'named') && this.#registry.get(name) === undefined)
        this.#registry.put({ name, role, spec, fd })
      else fd.close()
    }
  }

  /** A process that was expected has been proved dead. */
  provedDead(pid: number): void {
    this.#expected.delete(pid)
    if (this.#machine.phase === 'rebuilding') this.#tryRebuilt()
  }

  #tryRebuilt(): void {
    const back = new Set(this.#machine.backs.map(({ id }) => this.#holder.peer(id)?.pid))
    if ([...this.#expected].every(pid => back.has(pid))) this.#rebuilt()
  }

  #rebuilt(): void {
    clearTimeout(this.#rebuildTimer)
    this.#expected = new Set()
    for (const { id } of this.#machine.backs) {
      const peer = this.#holder.peer(id)
      if (peer !== undefined) peer.adopted = this.#registry.names
    }
    this.#dispatch({ type: 'rebuilt' })
  }

  // ---- status

  #askStatus(owner: Peer): Promise<Record<string, unknown> | null> {
    if (!owner.link.open) return Promise.resolve(null)
    return new Promise(resolve => {
      const timer = setTimeout(() => answer(''), STATUS_MS)
      const answer = (json: string) => {
        clearTimeout(timer)
        this.#asked.delete(owner)
        try {
          resolve(json === '' ? null : JSON.parse(json))
        } catch {
          resolve(null)
        }
      }
      this.#asked.set(owner, answer)
      owner.link.tell({ statusRequest: {} })
    })
  }
}

/** The daemon knows which sockets there are; the member knows who accepts on them. */
function merged<T extends { name: string }>(own: readonly T[], answer: Record<string, unknown>): object[] {
  const theirs = Array.isArray(answer.listeners) ? (answer.listeners as T[]) : []
  return own.map(listener => ({ ...theirs.find(({ name }) => name === listener.name), ...listener }))
}
