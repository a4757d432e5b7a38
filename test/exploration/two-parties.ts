/**
 * Two parties, in a chain: the holder lives in the serving process, and each next process takes over from the
 * one before. Every process runs the real `stepEmbedded`; the connection that moves runs the real `stepMoveOut`
 * and `stepMoveIn`.
 *
 * Channel k joins process k (its lower end) with the process that it joined.
 */

import { type Embedded, type EmbeddedEvent, stepEmbedded } from '../../src/handoff/embedded.js'
import { type HolderEvent, type HolderState, initialHolder } from '../../src/handoff/holder-machine.js'
import { initialMember, type MemberEvent } from '../../src/handoff/member-machine.js'
import type { ToHolder, ToMember } from '../../src/handoff/messages.js'
import type { HolderPhase, MemberPhase } from '../../src/handoff/phases.js'
import type { Rules } from '../../src/handoff/rules.js'
import type { Bounds } from './bounds.js'
import { Connection } from './connection.js'
import { FIRST_MEMBER } from './first-member.js'
import { Machine } from './machine.js'
import type { Parts } from './parts.js'
import {
  ABSENT,
  ACCEPTS,
  CHOICE,
  DATA,
  DEAD,
  DOWN,
  DRAINING,
  type Effect,
  ENDS,
  EXITED,
  HELD,
  isOfMember,
  JUDGING,
  KILLED,
  LEAVES,
  LEFT,
  LINGERING,
  LISTENERS,
  LOWER,
  MUST,
  NONE,
  type OutcomeEvent,
  type Parcel,
  RENEWALS,
  RUNNING,
  SEVERED,
  STATE,
  STATUS,
  UNATTACHED,
  UNDONE,
  UNREADABLE,
  UP,
  UPPER,
  WORKED,
  WORKS,
  World,
} from './world.js'

/** In the word of a channel's ends: who is at the upper one. */
const PARENT_SHIFT = 8

export class TwoParties extends World {
  private readonly machine: Machine<Embedded, EmbeddedEvent, Effect>
  private readonly fresh: number[]
  private readonly first: number
  private readonly connection: Connection | null
  private readonly eventIds = new Map<number, number>()
  private readonly plain = new Map<string, number>()

  constructor(bounds: Bounds, rules: Rules, parts: Parts) {
    super(
      bounds,
      rules,
      parts,
      bounds.processes,
      bounds.processes,
      bounds.connection ? Connection.words(bounds.processes) : 0,
    )
    this.machine = new Machine(this.lists, this.effects, (state, event, sealed) =>
      stepEmbedded(state, event, epoch => ((sealed >> epoch) & 1) === 1, rules, parts),
    )
    this.first = this.machine.states.id({
      self: 0,
      member: FIRST_MEMBER,
      holder: initialHolder('holder', 0, 0),
    })
    this.fresh = Array.from({ length: bounds.processes }, (_, self) =>
      this.machine.states.id({ self, member: initialMember('holder'), holder: null }),
    )
    this.connection = bounds.connection
      ? new Connection(rules, parts, this.t, this.moreAt, {
          post: (k, up, message) => this.pass(k, up, message),
          bad: what => this.bad(what),
          alive: p => this.alive(p),
          anyKilled: () => this.anyKilled(),
          name: p => this.name(p),
        })
      : null
  }

  protected start(): void {
    this.put(0, STATUS, RUNNING)
    this.put(0, STATE, this.first)
    this.set(0, ACCEPTS | LISTENERS | (this.bounds.work ? WORKS | WORKED : 0))
    this.put(0, HELD, 1 << this.newSegment(0))
    this.put(0, 3, 1)
    this.connection?.start()
  }

  protected phases(): string[] {
    return this.machine.states
      .values()
      .flatMap(({ member, holder }) => [
        `member ${member.phase}`,
        ...(holder === null ? [] : [`holder ${holder.phase}`]),
      ])
  }
  protected name(p: number): string {
    return `P${p}`
  }

  private process(p: number): Embedded {
    return this.machine.states.value(this.get(p, STATE))
  }
  private parent(k: number): number {
    return k === 0 ? -1 : this.link(k, ENDS) >> PARENT_SHIFT
  }

  // ---- effects

  protected send(p: number, message: ToHolder): void {
    this.pass(p, true, message)
  }
  protected tell(p: number, to: number, message: ToMember): void {
    let segments = 0
    if (message.kind === 'offer' || message.kind === 'reinstate') {
      segments = this.get(p, HELD)
      if (message.kind === 'offer' && !this.rules.sharedWayBack)
        segments &= ~(1 << this.find(p, message.wayBack))
    }
    this.pass(to, false, message, segments)
  }
  private pass(k: number, up: boolean, message: Parcel['message'], segments = 0): void {
    if (this.connected(k)) this.post(k, up ? UP : DOWN, message, segments)
  }
  protected make(p: number, epochs: readonly number[], by: 'member' | 'holder'): void {
    epochs.forEach((epoch, i) => {
      // Without the rule the successor makes its own when it begins.
      if (by === 'holder' && i === 0 && !this.rules.sharedSegment) return
      this.unique(epoch)
      this.put(p, HELD, this.get(p, HELD) | (1 << this.newSegment(epoch)))
    })
  }
  protected delivers(_p: number, to: number): boolean {
    return this.connected(to)
  }
  protected hears(p: number, event: OutcomeEvent): void {
    this.deliver(p, this.id(isOfMember(event) ? { to: 'member', event } : { to: 'holder', event }))
  }
  protected phaseOf(p: number): MemberPhase {
    return this.process(p).member.phase
  }
  protected leadsTo(): boolean {
    return true
  }
  protected hangUp(): void {}
  private unique(epoch: number): void {
    for (let q = 0; q < this.all; q++) {
      if (this.alive(q) && this.find(q, epoch) >= 0 && this.allRules)
        this.bad(`epoch ${epoch} is given twice`)
    }
  }
  private get allRules(): boolean {
    return Object.values({ ...this.rules, quiesceFirst: true, workAgain: true }).every(Boolean)
  }
  protected listened(except: number): boolean {
    for (let q = 0; q < this.all; q++)
      if (q !== except && this.alive(q) && this.has(q, LISTENERS)) return true
    return false
  }
  private anyKilled(): boolean {
    for (let q = 0; q < this.all; q++)
      if (this.get(q, STATUS) === KILLED || this.get(q, STATUS) === DEAD) return true
    return false
  }
  protected closeEnds(p: number): void {
    for (let k = 1; k < this.all; k++) {
      if (k === p) this.closeLower(k)
      else if (this.parent(k) === p) this.closeUpper(k)
    }
  }
  private closeUpper(k: number): void {
    this.setLink(k, ENDS, this.link(k, ENDS) & ~UPPER)
    this.setLink(k, UP, 0)
  }
  private closeLower(k: number): void {
    this.setLink(k, ENDS, this.link(k, ENDS) & ~LOWER)
    this.setLink(k, DOWN, 0)
  }
  protected onExit(p: number): void {
    this.connection?.leave(p, false, k => this.parent(k))
  }
  protected override onKill(p: number): void {
    this.connection?.leave(p, true, k => this.parent(k))
  }

  // ---- transitions

  private id(event: EmbeddedEvent): number {
    return this.machine.events.id(event)
  }
  /** Names of events that carry no message, looked up by a short key. */
  private toHolder(type: Exclude<HolderEvent['type'], 'message'>, id: number): number {
    const key = `${type}${id}`
    let event = this.plain.get(key)
    if (event === undefined) {
      event = this.id({ to: 'holder', event: (id < 0 ? { type } : { type, id }) as HolderEvent })
      this.plain.set(key, event)
    }
    return event
  }
  private toMember(key: string, make: () => MemberEvent): number {
    let event = this.plain.get(key)
    if (event === undefined) {
      event = this.id({ to: 'member', event: make() })
      this.plain.set(key, event)
    }
    return event
  }

  /** One step of p and, at least, its first effect. Returns false if the step had no effect, or no room. */
  private deliver(p: number, event: number): boolean {
    const before = this.get(p, STATE)
    const step = this.machine.step(before, event, this.sealedFor(p))
    if (!this.fits(step.effects)) {
      this.abandon()
      return false
    }
    this.put(p, STATE, step.state)
    this.run(p, step.effects)
    return step.state !== before || step.effects !== 0
  }
  private deliverNamed(p: number, event: number, kind: 0 | 1 | 2 | 3, label: string): void {
    if (this.deliver(p, event)) this.done(kind, this.labelled ? `${this.name(p)}: ${label}` : '')
    else this.open()
  }

  protected expand(): void {
    for (let p = 0; p < this.all; p++) {
      if (this.get(p, STATUS) === NONE || !this.common(p)) continue
      const { holder, member } = this.process(p)
      if (holder !== null) this.asHolder(p, holder.phase)
      for (let k = p + 1; k < this.all; k++)
        if (this.parent(k) === p && this.get(k, STATUS) !== NONE) this.asElder(p, k)
      if (p > 0) this.asYounger(p)
      this.leave(p, holder?.phase ?? null, member.phase)
      this.follow(p)
      this.works(p)
      if (member.phase === 'frozen')
        this.deliverNamed(
          p,
          this.toMember('deadline', () => ({ type: 'deadline' })),
          MUST,
          'deadline',
        )
      if (this.connection?.read(p))
        this.done(CHOICE, this.labelled ? `P${p} reads more of the connection` : '')
      else this.open()
      if (this.has(p, DRAINING)) this.drain(p)
    }
    for (let k = 1; k < this.all; k++) if (this.get(k, STATUS) !== NONE) this.cuts(k, this.name(k))
  }

  /** As close() does it: a handoff under way is waited for, who stands by does not come back. */
  private leave(p: number, holding: HolderPhase | null, phase: MemberPhase): void {
    if (this.t[LEAVES] === 0 || phase === 'joining' || phase === 'ready') return
    if (holding !== null && holding !== 'idle' && holding !== 'probation') return
    this.t[LEAVES]!--
    this.set(p, LEFT)
    if (holding === 'probation') this.deliver(p, this.toHolder('healthy', -1))
    this.deliverNamed(
      p,
      this.toMember('leave', () => ({ type: 'leave' })),
      CHOICE,
      'its application wants to go',
    )
  }

  protected quiesced(p: number, epoch: number): void {
    const event = this.toMember(`quiesced${epoch}`, () => ({ type: 'quiesced', epoch }))
    this.deliver(p, event)
    this.done(MUST, this.labelled ? `P${p} has ended its work` : '')
  }

  private asHolder(p: number, phase: string): void {
    // Whether it may be at present is for the machine to say.
    this.join(p)
    this.deliverNamed(p, this.toHolder('cancel', -1), CHOICE, 'the upgrade is cancelled')
    if (this.t[RENEWALS]! > 0) {
      this.t[RENEWALS]!--
      this.deliverNamed(p, this.toHolder('renew', -1), CHOICE, 'its segment has grown')
    }
    if (phase !== 'probation')
      this.deliverNamed(p, this.toHolder('unhealthy', -1), CHOICE, 'an operator wants the version before')
    switch (phase) {
      case 'idle':
        if (this.process(p).holder!.unfit.includes(p) && !this.foundUnreadable(p))
          this.deliverNamed(p, this.toHolder('renew', -1), MUST, 'tries again')
        break
      case 'quiescing':
        this.hurry(p)
        this.deliverNamed(p, this.toHolder('deadline', -1), MUST, `deadline (${phase})`)
        break
      case 'freezing':
        this.deliverNamed(p, this.toHolder('deadline', -1), MUST, `deadline (${phase})`)
        break
      case 'offering':
      case 'preparing':
      case 'committing':
      case 'returning':
        if (this.process(p).holder!.unfit.includes(p) && !this.foundUnreadable(p))
          this.deliverNamed(p, this.toHolder('renew', -1), MUST, 'tries again')
        this.deliverNamed(p, this.toHolder('deadline', -1), MUST, `deadline (${phase})`)
        break
      case 'probation': {
        const owner = this.process(p).holder!.owner
        const silent = this.get(owner, STATUS) !== RUNNING
        const kind = this.lasts(owner) ? CHOICE : MUST
        this.deliverNamed(p, this.toHolder(silent ? 'silent' : 'unhealthy', -1), kind, 'the probation fails')
        if (
          (this.get(owner, STATUS) === RUNNING && this.has(owner, ACCEPTS)) ||
          !this.rules.releaseByHealth
        ) {
          this.deliverNamed(p, this.toHolder('healthy', -1), kind, 'the probation ends')
          break
        }
        break
      }
    }
  }

  private join(p: number): void {
    let k = 1
    while (k < this.all && this.get(k, STATUS) !== NONE) k++
    if (k === this.all || this.has(p, LEFT)) return
    const step = this.machine.step(this.get(p, STATE), this.toHolder('join', k), this.sealedFor(p))
    if (step.state === this.get(p, STATE) || !this.fits(step.effects)) return
    this.put(k, STATUS, RUNNING)
    this.put(k, STATE, this.fresh[k]!)
    this.setLink(k, ENDS, UPPER | LOWER | (p << PARENT_SHIFT))
    this.put(p, STATE, step.state)
    this.run(p, step.effects)
    this.done(CHOICE, this.labelled ? `P${k} joins P${p}` : '')
    if (this.t[ABSENT] === 0) return
    this.t[ABSENT]!--
    this.put(k, STATUS, LINGERING)
    this.setLink(k, ENDS, UPPER | (p << PARENT_SHIFT))
    this.put(p, STATE, step.state)
    this.run(p, step.effects)
    this.done(CHOICE, this.labelled ? `P${k}, which has given up and lives on, joins P${p}` : '')
  }

  /** Messages of k, which joined p. */
  private asElder(p: number, k: number): void {
    const ends = this.link(k, ENDS)
    const queue = this.link(k, UP)
    if ((ends & UPPER) !== 0) {
      if (queue !== 0) {
        const id = this.lists.head(queue)
        const { message } = this.parcels.value(id)
        this.setLink(k, UP, this.lists.tail(queue))
        if ('slice' in message) this.connection!.hear(k, p, message)
        else {
          const key = (id * 16 + k) * 2
          let event = this.eventIds.get(key)
          if (event === undefined) {
            event = this.id({
              to: 'holder',
              event: { type: 'message', from: k, message: message as ToHolder },
            })
            this.eventIds.set(key, event)
          }
          if (!this.deliver(p, event)) this.setLink(k, UP, this.lists.tail(queue))
        }
        this.done(MUST, this.labelled ? `P${p} gets ${message.kind} from P${k}` : '')
      } else if ((ends & SEVERED) !== 0 || (ends & LOWER) === 0) {
        this.closeUpper(k)
        this.connection?.lose(k, p)
        this.deliver(p, this.toHolder('lost', k))
        this.done(MUST, this.labelled ? `P${p} loses the channel of P${k}` : '')
      }
    }
    const status = this.get(k, STATUS)
    if (status === DEAD || status === EXITED) {
      this.deliverNamed(p, this.toHolder('dead', k), MUST, `P${k} is dead`)
    }
    if (this.connection !== null) {
      const holder = this.process(p).holder
      if (
        holder !== null &&
        (holder.phase === 'probation' || holder.phase === 'released') &&
        holder.owner === k
      ) {
        if (this.connection.prepare(k, p))
          this.done(MUST, this.labelled ? `P${p} moves the connection to P${k}` : '')
        else this.open()
      }
      if (this.connection.deadline(k, p)) this.done(MUST, this.labelled ? `P${p}: deadline of the slice` : '')
      else this.open()
    }
  }

  /** Messages of the process that p joined. */
  private asYounger(p: number): void {
    const parent = this.parent(p)
    const { member } = this.process(p)
    const ends = this.link(p, ENDS)
    const queue = this.link(p, DOWN)
    const fate = this.fateOf(parent)
    if ((ends & LOWER) !== 0) {
      if (queue !== 0) {
        const id = this.lists.head(queue)
        const { message, segments } = this.parcels.value(id)
        this.setLink(p, DOWN, this.lists.tail(queue))
        if ('slice' in message) this.connection!.hear(p, p, message)
        else {
          this.put(p, HELD, this.get(p, HELD) | segments)
          if (message.kind === 'reinstate') this.shared(p)
          const named = 'epoch' in message ? message.epoch : member.epoch
          this.deliver(p, this.messageEvent(id, message as ToMember, this.isSealedFor(p, named)))
          if (this.get(p, STATUS) === RUNNING && this.process(p).member.holds && message.kind === 'offer')
            this.set(p, LISTENERS)
        }
        this.done(MUST, this.labelled ? `P${p} gets ${message.kind}` : '')
      } else if ((ends & SEVERED) !== 0 || (ends & UPPER) === 0) {
        this.closeLower(p)
        this.deliver(
          p,
          this.toMember('lost', () => ({ type: 'lost' })),
        )
        this.done(MUST, this.labelled ? `P${p} loses its channel` : '')
      }
    }
    if (this.connection?.doubt(p, fate))
      this.done(MUST, this.labelled ? `P${p} is in doubt about the slice` : '')
    else this.open()

    const own = this.isSealedFor(p, member.epoch)
    switch (member.phase) {
      case 'joining':
        if (member.holds)
          this.deliverNamed(
            p,
            this.toMember('adopted', () => ({ type: 'adopted' })),
            MUST,
            'the application is ready',
          )
        if (this.alive(parent)) this.refuse(p)
        this.deadline(p)
        break
      case 'ready':
        if (this.alive(parent)) this.refuse(p)
        this.deadline(p)
        break
      case 'beginning':
      case 'serving':
      case 'unfit':
        if (own && !this.has(p, JUDGING))
          this.deliverNamed(
            p,
            this.toMember('sealed', () => ({ type: 'sealed' })),
            MUST,
            'sees its segment sealed',
          )
        if (member.link !== 'local') {
          const segment = this.find(p, member.epoch)
          if (segment >= 0 && this.isMarked(segment)) {
            this.deliverNamed(
              p,
              this.toMember('mark', () => ({
                type: 'message',
                message: { kind: 'released' },
                sealed: false,
              })),
              MUST,
              'sees the mark of the release',
            )
          }
        }
        break
      default:
        break
    }
    if (fate === 'alive' && this.has(p, JUDGING)) {
      this.clear(p, JUDGING)
      const event = this.toMember(`alive${own}`, () => ({ type: 'fate', fate: 'alive', sealed: own }))
      this.deliver(p, event)
      this.done(MUST, this.labelled ? `P${p} finds P${parent} alive` : '')
    }
    // The channel is read to its end before a death counts.
    if (fate === 'dead' && (this.link(p, ENDS) & LOWER) === 0) {
      this.clear(p, JUDGING)
      const event = this.toMember(`dead${own}`, () => ({ type: 'fate', fate: 'dead', sealed: own }))
      this.deliver(p, event)
      this.done(MUST, this.labelled ? `P${p} finds P${parent} dead` : '')
    }
  }

  /** No number is given twice. */
  private shared(p: number): void {
    let top = 0
    const held = this.get(p, HELD)
    for (let s = 0; s < this.segments; s++) if ((held >> s) & 1) top = Math.max(top, this.epochOf(s))
    const event = this.toMember(`shared${top}`, () => ({ type: 'shared', top }))
    this.put(p, STATE, this.machine.step(this.get(p, STATE), event).state)
  }

  private messageEvent(id: number, message: ToMember, sealed: boolean): number {
    const key = (id * 16 + (sealed ? 9 : 8)) * 2 + 1
    let event = this.eventIds.get(key)
    if (event === undefined) {
      event = this.id({ to: 'member', event: { type: 'message', message, sealed } })
      this.eventIds.set(key, event)
    }
    return event
  }

  private refuse(p: number): void {
    this.deliverNamed(
      p,
      this.toMember('refused', () => ({ type: 'refused' })),
      CHOICE,
      'the application refuses',
    )
  }
  private deadline(p: number): void {
    this.deliverNamed(
      p,
      this.toMember('deadline', () => ({ type: 'deadline' })),
      MUST,
      'deadline',
    )
  }

  /** The result if p looks at q. */
  private fateOf(q: number): 'alive' | 'dead' | 'unknown' {
    const status = this.get(q, STATUS)
    if (status === DEAD || status === EXITED) return 'dead'
    if (status === KILLED) return this.rules.grace ? 'unknown' : 'alive'
    return 'alive'
  }

  private drain(p: number): void {
    if (this.connection?.end(p))
      this.done(this.bounds.lasting ? CHOICE : MUST, this.labelled ? `the client of P${p} leaves` : '')
    else this.open()
    if (this.get(p, DATA) >> 4 !== 0 || this.forwarded?.busy(p)) return
    if (this.connection?.busy(p, k => this.parent(k))) return
    this.deliverNamed(
      p,
      this.toMember('drained', () => ({ type: 'drained' })),
      this.bounds.lasting ? CHOICE : MUST,
      'drained',
    )
  }

  // ---- what must hold

  protected check(): string | null {
    const writers = this.writers()
    if (writers !== null) return writers
    for (let p = 0; p < this.all; p++) {
      if (!this.alive(p)) continue
      const keeps = this.keepsWriting(p) ?? this.keepsAccepting(p)
      if (keeps !== null) return keeps
      const { holder, member } = this.process(p)
      if (
        this.get(p, UNDONE) === 0 &&
        (this.rules.begun || !this.has(p, UNATTACHED)) &&
        (member.accepting !== this.has(p, ACCEPTS) || member.holds !== this.has(p, LISTENERS))
      ) {
        return `P${p} is not what it believes to be`
      }
      if (holder === null || holder.owner !== p) continue
      switch (holder.phase) {
        case 'offering':
        case 'quiescing':
        case 'freezing':
        case 'preparing':
        case 'committing':
          if (this.has(p, LEFT | UNATTACHED)) break
          if (!this.has(p, ACCEPTS) || !this.has(p, LISTENERS)) return `P${p} is touched before Commit`
      }
    }
    return this.connection?.check() ?? null
  }

  /** One that cannot come back waits for the end of a successor that it hears nothing of: that one serves. */
  private waitsForTheCut(p: number, { unfit, phase, owner, joiner, down }: HolderState): boolean {
    const other = phase === 'probation' ? owner : joiner
    if (!unfit.includes(p) || !down.includes(other)) return false
    // In `returning` no process may write: it tries again itself.
    return phase !== 'returning' || this.has(p, UNREADABLE)
  }

  protected rest(onlyResumes: boolean): string | null {
    const hole = this.blackHole()
    if (hole !== null || onlyResumes) return hole
    let live = 0
    let listeners = false
    let owners = 0
    let readers = 0
    let waiting = false
    for (let p = 0; p < this.all; p++) {
      if (this.get(p, STATUS) !== RUNNING) continue
      const { holder, member } = this.process(p)
      if (this.bounds.lasting && member.phase === 'leaving' && this.has(p, DRAINING)) continue
      if (this.bounds.lasting && holder?.phase === 'probation' && this.lasts(holder.owner))
        return this.duringProbation(holder.owner, holder.helperAccepts)
      if (holder?.phase === 'idle' && this.waitsForDrain(holder)) return null
      if (holder !== null && this.waitsForTheCut(p, holder)) {
        waiting = true
        continue
      }
      live++
      listeners ||= this.has(p, LISTENERS)
      const writes = this.mayWrite(p)
      for (const k of holder?.bound ?? [])
        if (this.get(k, STATUS) === LINGERING) return `blocked by one that was given nothing: P${k}`
      const decides = holder?.phase === 'idle' || (waiting && holder === null)
      if (this.bounds.work && writes && member.phase === 'serving' && !this.has(p, WORKS))
        return `nobody works: P${p} serves and did not begin again`
      if (member.phase === 'serving' && decides && writes && this.has(p, ACCEPTS)) owners++
      else if (member.phase === 'unfit' && holder?.phase === 'idle' && this.has(p, UNREADABLE)) readers++
      else if (member.phase !== 'serving') return `stuck generation: P${p} in ${member.phase}`
      else if (holder !== null && holder.phase !== 'idle') return `stuck handoff: P${p} in ${holder.phase}`
    }
    if (listeners && owners + readers !== 1) return `not exactly one owner at rest: ${owners}`
    if (live > 1) return 'two generations at rest'
    return this.connection?.rest() ?? null
  }
}
