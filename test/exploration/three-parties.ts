/**
 * Three parties: a daemon D that holds, and members that serve. D runs the real `stepHolder`, every member the
 * real `stepMember`. Channel m joins member m (its lower end) with D.
 *
 * Abstracted: what D makes is with every connected rights-holder in the same moment (rules `shareAll` and `spare`);
 * a driver waits for their receipts before it goes on. A member that connects again is known to D only when its
 * Back is read, and the loss of its old channel is told before.
 */

import {
  type HolderEvent,
  type HolderState,
  initialHolder,
  restartedHolder,
} from '../../src/handoff/holder-machine.js'
import { initialMember, type MemberEvent, type MemberState } from '../../src/handoff/member-machine.js'
import { NOBODY, type ToHolder, type ToMember } from '../../src/handoff/messages.js'
import type { MemberPhase } from '../../src/handoff/phases.js'
import type { Rules } from '../../src/handoff/rules.js'
import type { Bounds } from './bounds.js'
import { Machine } from './machine.js'
import type { Parts } from './parts.js'
import {
  ACCEPTS,
  ACKED,
  BACK,
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
  LISTENERS,
  LOWER,
  MUST,
  NONE,
  type OutcomeEvent,
  PEN,
  RELOST,
  RENEWALS,
  RESTARTS,
  RETRYING,
  RUNNING,
  SEVERED,
  SILENT,
  STALE,
  STATE,
  STATUS,
  STOPPED,
  UNATTACHED,
  UNDONE,
  UNREADABLE,
  UNSEEN,
  UP,
  UPPER,
  WORKED,
  WORKS,
  World,
} from './world.js'

export class ThreeParties extends World {
  private readonly members: Machine<MemberState, MemberEvent, Effect>
  private readonly daemon: Machine<HolderState, HolderEvent, Effect>
  private readonly d: number
  private readonly first: number
  private readonly fresh: number
  private readonly firstHolder: number
  private readonly restarted: number
  private readonly named = new Map<string, number>()
  private readonly plain = new Map<string, number[]>()
  private readonly heard = new Map<number, number>()
  /** The joiner is well, and only a deadline ends the handoff. */
  private blocked = false

  constructor(bounds: Bounds, rules: Rules, parts: Parts) {
    super(bounds, rules, parts, bounds.processes + 1, bounds.processes, 1)
    this.d = bounds.processes
    this.members = new Machine(this.lists, this.effects, (state, event) => {
      const step = parts.member(state, event, rules)
      return { state: step.state, effects: step.effects.map(effect => ({ by: 'member', effect })) }
    })
    this.daemon = new Machine(this.lists, this.effects, (state, event) => {
      const step = parts.holder(state, event, rules)
      return { state: step.state, effects: step.effects.map(effect => ({ by: 'holder', effect })) }
    })
    const fresh = initialMember('member')
    this.fresh = this.members.states.id(fresh)
    this.first = this.members.states.id({
      ...fresh,
      phase: 'serving',
      holds: true,
      accepting: true,
      epoch: 0,
      top: 0,
    })
    this.firstHolder = this.daemon.states.id(initialHolder('member', 0, 0))
    this.restarted = this.daemon.states.id(restartedHolder())
  }

  protected start(): void {
    const segment = 1 << this.newSegment(0)
    this.put(0, STATUS, RUNNING)
    this.put(0, STATE, this.first)
    this.put(0, HELD, segment)
    this.put(0, PEN, 1)
    this.set(0, ACCEPTS | LISTENERS | (this.bounds.work ? WORKS | WORKED : 0))
    this.setLink(0, ENDS, UPPER | LOWER)
    this.put(this.d, STATUS, RUNNING)
    this.put(this.d, STATE, this.firstHolder)
    this.put(this.d, HELD, segment)
    this.set(this.d, LISTENERS)
  }

  protected phases(): string[] {
    return [
      ...this.members.states.values().map(({ phase }) => `member ${phase}`),
      ...this.daemon.states.values().map(({ phase }) => `holder ${phase}`),
    ]
  }
  protected name(p: number): string {
    return p === this.d ? 'D' : `M${p}`
  }
  private member(m: number): MemberState {
    return this.members.states.value(this.get(m, STATE))
  }
  private holder(): HolderState {
    return this.daemon.states.value(this.get(this.d, STATE))
  }
  /** Whether messages of D to m arrive now. */
  private reached(m: number): boolean {
    return this.connected(m) && (this.link(m, ENDS) & UNSEEN) === 0
  }

  // ---- effects

  protected send(m: number, message: ToHolder): void {
    if (this.connected(m)) this.post(m, UP, message, message.kind === 'back' ? this.get(m, HELD) : 0)
  }
  protected tell(d: number, to: number, message: ToMember): void {
    if (to === NOBODY || !this.reached(to)) return
    let segments = 0
    if (message.kind === 'offer' || message.kind === 'commit' || message.kind === 'reinstate') {
      segments = this.get(d, HELD)
      if (!this.rules.spare)
        for (let s = 0; s < this.segments; s++) if (this.epochOf(s) > message.epoch) segments &= ~(1 << s)
    }
    this.post(to, DOWN, message, segments)
  }
  protected make(p: number, epochs: readonly number[]): void {
    if (p === this.d && this.missing()) this.t[this.moreAt] = 1
    epochs.forEach((epoch, i) => {
      for (let q = 0; q < this.all; q++) {
        if (
          this.alive(q) &&
          this.has(q, LISTENERS) &&
          this.find(q, epoch) >= 0 &&
          Object.values(this.rules).every(Boolean)
        ) {
          this.bad(`epoch ${epoch} is given twice`)
        }
      }
      const segment = 1 << this.newSegment(epoch)
      this.put(p, HELD, this.get(p, HELD) | segment)
      if (p !== this.d) return
      // If there are two epochs, the first is the successor's; else this is a way back.
      const shared = i === 0 && epochs.length === 2 ? this.rules.shareAll : this.rules.spare
      if (!shared) return
      for (let m = 0; m < this.d; m++) {
        if (!this.alive(m) || !this.has(m, LISTENERS) || !this.reached(m)) continue
        this.put(m, HELD, this.get(m, HELD) | segment)
        const event = this.id(`shared${epoch}`, () => ({ type: 'shared', top: epoch }))
        this.put(m, STATE, this.members.step(this.get(m, STATE), event).state)
      }
    })
  }
  protected delivers(_p: number, to: number): boolean {
    return to !== NOBODY && this.reached(to)
  }
  protected hears(p: number, event: OutcomeEvent): void {
    if (isOfMember(event)) this.deliver(p, this.members.events.id(event))
    else this.deliver(p, this.daemon.events.id(event))
  }
  protected phaseOf(p: number): MemberPhase {
    return p === this.d ? 'gone' : this.member(p).phase
  }
  protected leadsTo(_m: number, to: number): boolean {
    return this.get(this.d, STATUS) === RUNNING && this.holder().owner === to && this.reached(to)
  }
  protected hangUp(m: number): void {
    this.setLink(m, ENDS, this.link(m, ENDS) & ~LOWER)
    this.setLink(m, DOWN, 0)
  }
  protected listened(except: number): boolean {
    for (let q = 0; q < this.all; q++)
      if (q !== except && this.alive(q) && this.has(q, LISTENERS)) return true
    return false
  }
  protected closeEnds(p: number): void {
    for (let m = 0; m < this.d; m++) {
      if (p === this.d) {
        this.setLink(m, ENDS, this.link(m, ENDS) & ~(UPPER | UNSEEN | RELOST))
        this.setLink(m, UP, 0)
      } else if (p === m) {
        this.setLink(m, ENDS, this.link(m, ENDS) & ~LOWER)
        this.setLink(m, DOWN, 0)
      }
    }
  }
  protected onExit(): void {}
  protected override perform(p: number, effect: Effect): void {
    if (effect.effect.type === 'failed' && effect.effect.phase === 'freezing' && this.blocked) {
      this.bad('a stopped incumbent blocks the upgrade: the deadline of Freeze ends the handoff')
    }
    super.perform(p, effect)
  }

  // ---- transitions

  private id(key: string, event: () => MemberEvent): number {
    let id = this.named.get(key)
    if (id === undefined) {
      id = this.members.events.id(event())
      this.named.set(key, id)
    }
    return id
  }
  private holderId(type: Exclude<HolderEvent['type'], 'message'>, m = NOBODY): number {
    let ids = this.plain.get(type)
    if (ids === undefined) {
      ids = []
      this.plain.set(type, ids)
    }
    let id = ids[m - NOBODY]
    if (id === undefined) {
      id = this.daemon.events.id((m === NOBODY ? { type } : { type, id: m }) as HolderEvent)
      ids[m - NOBODY] = id
    }
    return id
  }

  /** One step of p and, at least, its first effect. Returns false if the step had no effect, or no room. */
  private deliver(p: number, event: number, atOnce = false): boolean {
    const before = this.get(p, STATE)
    const step = p === this.d ? this.daemon.step(before, event) : this.members.step(before, event)
    if (!this.fits(step.effects)) {
      this.abandon()
      return false
    }
    this.put(p, STATE, step.state)
    this.run(p, step.effects, atOnce)
    return step.state !== before || step.effects !== 0
  }
  private offer(p: number, event: number, kind: 0 | 1 | 2 | 3, label: string): void {
    if (this.deliver(p, event)) this.done(kind, this.labelled ? `${this.name(p)}: ${label}` : '')
    else this.open()
  }

  protected expand(): void {
    for (let m = 0; m < this.d; m++) if (this.get(m, STATUS) !== NONE && this.common(m)) this.asMember(m)
    const status = this.get(this.d, STATUS)
    if (status === DEAD) this.restart()
    else if (this.common(this.d)) this.asDaemon()
    for (let m = 0; m < this.d; m++) if (this.get(m, STATUS) !== NONE) this.cuts(m, this.name(m))
  }

  protected quiesced(m: number, epoch: number): void {
    const event = this.id(`quiesced${epoch}`, () => ({ type: 'quiesced', epoch }))
    this.deliver(m, event)
    this.done(MUST, this.labelled ? `M${m} has ended its work` : '')
  }

  private asMember(m: number): void {
    this.works(m)
    const { d } = this
    const before = this.member(m)
    const ends = this.link(m, ENDS)
    const queue = this.link(m, DOWN)
    if ((ends & LOWER) !== 0) {
      if (queue !== 0) {
        const id = this.lists.head(queue)
        const { message, segments } = this.parcels.value(id)
        this.setLink(m, DOWN, this.lists.tail(queue))
        this.put(m, HELD, this.get(m, HELD) | segments)
        const epoch = 'epoch' in message ? message.epoch : before.epoch
        const sealed = this.isSealedFor(m, epoch)
        const key = id * 2 + (sealed ? 1 : 0)
        let event = this.heard.get(key)
        if (event === undefined) {
          event = this.members.events.id({ type: 'message', message: message as ToMember, sealed })
          this.heard.set(key, event)
        }
        // The process that ordered it to leave knew, then, of another that was well.
        this.ordered = message.kind === 'fenced' || message.kind === 'abort' || message.kind === 'released'
        this.deliver(m, event)
        this.ordered = false
        if (message.kind === 'offer' && this.get(m, STATUS) === RUNNING && this.member(m).holds)
          this.set(m, LISTENERS)
        this.done(MUST, this.labelled ? `M${m} gets ${message.kind}` : '')
      } else if ((ends & SEVERED) !== 0 || (ends & UPPER) === 0) {
        this.setLink(m, ENDS, ends & ~LOWER)
        this.deliver(
          m,
          this.id('lost', () => ({ type: 'lost' })),
        )
        this.done(MUST, this.labelled ? `M${m} loses its channel` : '')
      }
    }
    switch (before.phase) {
      case 'joining':
        if (before.holds)
          this.offer(
            m,
            this.id('adopted', () => ({ type: 'adopted' })),
            MUST,
            'the application is ready',
          )
        this.refused(m)
        this.deadline(m)
        break
      case 'ready':
        this.refused(m)
        if (before.link === 'up') this.deadline(m)
        break
      case 'frozen':
        this.deadline(m)
        break
      case 'leaving':
        if (this.has(m, DRAINING) && this.get(m, DATA) >> 4 === 0 && !this.forwarded?.busy(m)) {
          this.offer(
            m,
            this.id('drained', () => ({ type: 'drained' })),
            this.bounds.lasting ? CHOICE : MUST,
            'drained',
          )
        }
        break
      default:
        break
    }
    if (this.t[LEAVES]! > 0 && before.phase !== 'joining' && before.phase !== 'ready') {
      this.t[LEAVES]!--
      this.set(m, LEFT)
      this.offer(
        m,
        this.id('leave', () => ({ type: 'leave' })),
        CHOICE,
        'its application wants to go',
      )
    }
    this.follow(m)
    const status = this.get(d, STATUS)
    const sealed = this.isSealedFor(m, before.epoch)
    if (status !== STOPPED && this.t[SILENT]! > 0) {
      this.t[SILENT]!--
      this.offer(
        m,
        this.id('silent', () => ({ type: 'silent' })),
        CHOICE,
        'finds D silent',
      )
    }
    if (status === RUNNING && this.reached(m))
      this.offer(
        m,
        this.id('heard', () => ({ type: 'heard' })),
        MUST,
        'hears D again',
      )
    if (status === STOPPED)
      this.offer(
        m,
        this.id('silent', () => ({ type: 'silent' })),
        MUST,
        'D is silent',
      )
    if (this.has(m, JUDGING) && (status === RUNNING || status === STOPPED) && !this.has(m, STALE)) {
      this.clear(m, JUDGING)
      this.deliver(
        m,
        this.id(`alive${sealed}`, () => ({ type: 'fate', fate: 'alive', sealed })),
      )
      this.done(MUST, this.labelled ? `M${m} finds D alive` : '')
    }
    // The channel is read to its end before a death counts.
    if ((ends & LOWER) === 0 && (status === DEAD || this.has(m, STALE))) {
      this.clear(m, JUDGING)
      this.deliver(
        m,
        this.id(`dead${sealed}`, () => ({ type: 'fate', fate: 'dead', sealed })),
      )
      this.done(MUST, this.labelled ? `M${m} finds D dead` : '')
    }
    if ((ends & LOWER) === 0 && this.has(m, RETRYING) && status === RUNNING) {
      const restarted = this.has(m, STALE)
      // Earlier messages are still read; then the old channel is found lost.
      const left = (ends & UPPER) !== 0 ? RELOST : 0
      if (left === 0) this.setLink(m, UP, 0)
      this.setLink(m, DOWN, 0)
      this.setLink(m, ENDS, UPPER | LOWER | UNSEEN | left)
      this.clear(m, RETRYING | JUDGING | STALE)
      const event = this.id(`reconnected${restarted}${sealed}`, () => ({
        type: 'reconnected',
        restarted,
        sealed,
      }))
      this.deliver(m, event)
      this.done(MUST, this.labelled ? `M${m} connects again` : '')
    }
  }

  private refused(m: number): void {
    if (!this.listened(m)) return
    this.offer(
      m,
      this.id('refused', () => ({ type: 'refused' })),
      CHOICE,
      'the application refuses',
    )
  }
  private deadline(m: number): void {
    this.offer(
      m,
      this.id('deadline', () => ({ type: 'deadline' })),
      MUST,
      'deadline',
    )
  }

  private restart(): void {
    if (this.t[RESTARTS] === 0) return
    const { d } = this
    this.t[RESTARTS]!--
    this.put(d, STATUS, RUNNING)
    this.put(d, STATE, this.restarted)
    for (let m = 0; m < d; m++)
      if (this.get(m, STATUS) === RUNNING || this.get(m, STATUS) === STOPPED) this.set(m, STALE)
    this.done(CHOICE, 'D is started again and knows nothing')
  }

  private asDaemon(): void {
    const { d } = this
    const holder = this.holder()
    for (let m = 0; m < d; m++) {
      if (this.get(m, STATUS) === NONE) continue
      const ends = this.link(m, ENDS)
      const queue = this.link(m, UP)
      if ((ends & UPPER) !== 0) {
        if (queue !== 0) this.hear(m, ends, queue)
        else if ((ends & SEVERED) !== 0 || (ends & LOWER) === 0) {
          this.setLink(m, ENDS, ends & ~(UPPER | UNSEEN | RELOST))
          this.deliver(d, this.holderId('lost', m))
          this.done(MUST, this.labelled ? `D loses the channel of M${m}` : '')
        }
      }
      const status = this.get(m, STATUS)
      if (status === DEAD || status === EXITED) this.offer(d, this.holderId('dead', m), MUST, `M${m} is dead`)
    }
    // Whether it may be at present is for the machine to say.
    this.join()
    this.offer(d, this.holderId('cancel'), CHOICE, 'the upgrade is cancelled')
    if (this.t[RENEWALS]! > 0) {
      this.t[RENEWALS]!--
      this.offer(d, this.holderId('renew'), CHOICE, 'the segment has grown')
    }
    if (holder.phase !== 'probation')
      this.offer(d, this.holderId('unhealthy'), CHOICE, 'an operator wants the version before')
    switch (holder.phase) {
      case 'idle':
        if (holder.unfit.includes(holder.owner) && !this.foundUnreadable(holder.owner))
          this.offer(d, this.holderId('renew'), MUST, 'has its owner try again')
        break
      case 'quiescing':
        this.hurry(holder.owner)
        this.offer(d, this.holderId('deadline'), MUST, 'deadline (quiescing)')
        break
      case 'freezing':
        this.blocked = this.get(holder.joiner, STATUS) === RUNNING && this.reached(holder.joiner)
        this.offer(d, this.holderId('deadline'), MUST, 'deadline (freezing)')
        this.blocked = false
        break
      case 'offering':
      case 'preparing':
      case 'committing':
        this.offer(d, this.holderId('deadline'), MUST, `deadline (${holder.phase})`)
        break
      case 'returning':
        if (!this.foundUnreadable(holder.owner))
          this.offer(d, this.holderId('renew'), MUST, 'has its owner try again')
        if (!this.well(holder.owner)) this.offer(d, this.holderId('deadline'), MUST, 'deadline (returning)')
        break
      case 'probation':
        this.probation(holder)
        break
      case 'rebuilding':
        if (this.everybodyIsBack(holder)) this.offer(d, this.holderId('rebuilt'), MUST, 'everybody is back')
        break
      default:
        break
    }
  }

  /** A rights-holder that would not get what is made now. */
  private missing(): boolean {
    for (let m = 0; m < this.d; m++)
      if (this.alive(m) && this.has(m, LISTENERS) && !this.reached(m)) return true
    return false
  }

  private well(m: number): boolean {
    return m !== NOBODY && this.get(m, STATUS) === RUNNING && this.reached(m)
  }

  private hear(m: number, ends: number, queue: number): void {
    const { d } = this
    const id = this.lists.head(queue)
    const { message, segments } = this.parcels.value(id)
    this.setLink(m, UP, this.lists.tail(queue))
    if ('slice' in message) return
    if (message.kind === 'back') {
      this.setLink(m, ENDS, ends & ~(UNSEEN | RELOST))
      this.put(d, HELD, this.get(d, HELD) | segments)
      this.set(d, LISTENERS)
      if ((ends & RELOST) !== 0) {
        const step = this.daemon.step(this.get(d, STATE), this.holderId('lost', m))
        if (!this.fits(step.effects)) {
          this.open()
          return
        }
        // Nothing that is told now reaches it: it is not known yet who has connected.
        this.setLink(m, ENDS, ends)
        this.put(d, STATE, step.state)
        this.run(d, step.effects, true)
        this.setLink(m, ENDS, ends & ~(UNSEEN | RELOST))
      }
    }
    const key = -1 - (id * 8 + m)
    let event = this.heard.get(key)
    if (event === undefined) {
      event = this.daemon.events.id({ type: 'message', from: m, message: message as ToHolder })
      this.heard.set(key, event)
    }
    const before = this.cramped
    this.deliver(d, event)
    if (this.cramped && !before) {
      this.open()
      return
    }
    this.done(MUST, this.labelled ? `D gets ${message.kind} from M${m}` : '')
  }

  private join(): void {
    const { d } = this
    let m = 0
    while (m < d && this.get(m, STATUS) !== NONE) m++
    // The daemon waits for the receipts before the Offer leaves: the loss of a channel is noticed first.
    if (m === d || this.missing()) return
    const before = this.get(d, STATE)
    const step = this.daemon.step(before, this.holderId('join', m))
    if (step.state === before || !this.fits(step.effects)) return
    // A daemon that knows nothing, and to which no member came back, binds.
    this.set(d, LISTENERS)
    this.put(m, STATUS, RUNNING)
    this.put(m, STATE, this.fresh)
    this.setLink(m, ENDS, UPPER | LOWER)
    this.put(d, STATE, step.state)
    this.run(d, step.effects)
    this.done(CHOICE, this.labelled ? `M${m} joins` : '')
  }

  private probation(holder: HolderState): void {
    const { d } = this
    const { owner } = holder
    const well = this.well(owner) && this.has(owner, ACCEPTS)
    if (!well || this.t[BACK]! > 0) {
      if (well) this.t[BACK]!--
      if (this.deliver(d, this.holderId(well ? 'unhealthy' : 'silent')))
        this.done(well && this.bounds.lasting ? CHOICE : MUST, this.labelled ? 'D: the probation fails' : '')
      else this.open()
    }
    if (well || !this.rules.releaseByHealth)
      this.offer(d, this.holderId('healthy'), this.bounds.lasting ? CHOICE : MUST, 'the probation ends')
  }

  /** Every rights-holder is back, or proved dead. */
  private everybodyIsBack(holder: HolderState): boolean {
    for (let m = 0; m < this.d; m++) {
      const status = this.get(m, STATUS)
      if (status === KILLED) return false
      if (this.alive(m) && this.has(m, LISTENERS) && !holder.returned.some(back => back.id === m))
        return false
    }
    return true
  }

  // ---- what must hold

  protected check(): string | null {
    this.forget()
    const writers = this.writers()
    if (writers !== null) return writers
    for (let m = 0; m < this.d; m++) {
      if (!this.alive(m) || this.get(m, UNDONE) !== 0) continue
      const keeps = this.keepsWriting(m) ?? this.keepsAccepting(m)
      if (keeps !== null) return keeps
      const { accepting, holds } = this.member(m)
      if (accepting !== this.has(m, ACCEPTS) || holds !== this.has(m, LISTENERS)) {
        return `M${m} is not what it believes to be`
      }
    }
    if (this.get(this.d, STATUS) !== RUNNING) return null
    const { phase, owner } = this.holder()
    if (phase !== 'offering' && phase !== 'quiescing' && phase !== 'freezing' && phase !== 'preparing')
      return null
    // An owner that was slow to take its Commit, and so has not accepted yet, is not touched by the next joiner.
    const begins = owner !== NOBODY && this.alive(owner) && this.member(owner).phase === 'ready'
    if (owner !== NOBODY && this.alive(owner) && !begins && !this.has(owner, ACCEPTS | LEFT | UNATTACHED))
      return `M${owner} is touched before Commit`
    return null
  }

  /** Everything that held the segments is gone: no change can be demanded any more. */
  private forget(): void {
    // Made while a rights-holder had no channel (it was given the time to connect again): that one serves without
    // it if everybody who has it is dead.
    if (this.t[this.moreAt] === 1) {
      let known = 0
      for (let p = 0; p < this.all; p++) if (this.alive(p)) known |= this.get(p, DATA) | this.changesHeld(p)
      this.t[ACKED]! &= known
    }
    for (let m = 0; m < this.d; m++) if (this.alive(m) && this.has(m, LISTENERS)) return
    if (this.get(this.d, STATUS) === RUNNING && this.get(this.d, HELD) !== 0) return
    this.t[ACKED] = 0
    for (let m = 0; m < this.d; m++) if (this.alive(m)) this.put(m, DATA, this.get(m, DATA) & 0xf)
  }

  /** All wait for a stopped process, and none may write though one that is well could. */
  private blockedWrites(): string | null {
    if (this.holder().phase === 'rebuilding') return null
    let well = false
    for (let m = 0; m < this.d; m++) {
      const pen = this.get(m, PEN)
      if (this.alive(m) && pen !== 0 && !this.isSealed(pen - 1)) return null
      // A process that could not begin does not try again while a stopped one may serve: that one is named, to be ended.
      well ||= this.well(m) && this.has(m, ACCEPTS) && !this.holder().unfit.includes(m)
    }
    return well ? 'a stopped process blocks all writes' : null
  }

  /** All wait for a stopped process, and a joiner that would serve in its place is refused: it could be fenced. */
  private blockedJoiners(): string | null {
    const { phase, unfit } = this.holder()
    if (phase === 'probation' && this.bounds.lasting) return null
    // One that found that it cannot serve waits for the stopped one, which is named, to be ended.
    if (phase === 'idle' || phase === 'rebuilding' || unfit.length > 0) return null
    return `a stopped process blocks every joiner: ${phase}`
  }

  protected rest(onlyResumes: boolean): string | null {
    const hole = this.blackHole()
    if (hole !== null) return hole
    if (this.get(this.d, STATUS) !== RUNNING) return null
    if (onlyResumes) return this.blockedWrites() ?? this.blockedJoiners()
    const { phase: held, owner, helperAccepts: helped } = this.holder()
    if (this.bounds.lasting && held === 'probation' && this.lasts(owner))
      return this.duringProbation(owner, helped)
    if (held === 'idle' && this.waitsForDrain(this.holder())) return null
    let live = 0
    let writers = 0
    let readers = 0
    let listeners = false
    let stuck = ''
    for (let m = 0; m < this.d; m++) {
      if (this.get(m, STATUS) !== RUNNING) continue
      if (this.bounds.lasting && this.has(m, DRAINING) && this.member(m).phase === 'leaving') continue
      live++
      listeners ||= this.has(m, LISTENERS)
      const writes = this.mayWrite(m)
      if (writes) writers++
      const { phase } = this.member(m)
      if (this.bounds.work && writes && phase === 'serving' && !this.has(m, WORKS))
        stuck = `nobody works: M${m} serves and did not begin again`
      if (phase === 'unfit' && this.has(m, UNREADABLE) && this.holder().owner === m) readers++
      else if (phase !== 'serving') stuck = `stuck generation: M${m} in ${phase}`
    }
    if (!listeners) return null
    const { phase } = this.holder()
    if (phase !== 'idle') return `stuck handoff: ${phase}`
    if (writers + readers !== 1) return `not exactly one writer at rest: ${writers}`
    if (stuck !== '') return stuck
    return live > 1 ? 'two members serve at rest' : null
  }
}
