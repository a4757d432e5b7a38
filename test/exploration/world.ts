/**
 * The world of the machines: processes, channels, segments and clients, as one short row of numbers that the
 * search can copy and compare. Shared by two parties and three: the kernel's side of it, and the
 * carrying out of effects. Nothing here decides anything about a handoff; that is for the real `step` functions.
 */

import type { EmbeddedEffect } from '../../src/handoff/embedded.js'
import type { HolderEffect, HolderEvent, HolderState } from '../../src/handoff/holder-machine.js'
import type { MemberEffect, MemberEvent } from '../../src/handoff/member-machine.js'
import type { ToHolder, ToMember } from '../../src/handoff/messages.js'
import type { MemberPhase } from '../../src/handoff/phases.js'
import type { Rules } from '../../src/handoff/rules.js'
import type { Bounds } from './bounds.js'
import { ForwardedChange } from './forwarded.js'
import { Interner, Lists } from './interning.js'
import type { Parts } from './parts.js'
import { Queue } from './queue.js'

/** The kinds of a transition. A state is at rest only if it is left by nothing but choices and faults. */
export const MUST = 0
/** SIGCONT: may never come. */
export const RESUME = 1
/** A client, an operator, a new process: may come or not. */
export const CHOICE = 2
export const FAULT = 3
export type Kind = 0 | 1 | 2 | 3

export const NONE = 0
export const RUNNING = 1
export const STOPPED = 2
/** Killed: its descriptors are closed, its pidfd does not tell yet. */
export const KILLED = 3
/** Killed, and the pidfd tells. */
export const DEAD = 4
export const EXITED = 5
/** Without any part in the service, but not ended: no process can be told that it is dead. */
export const LINGERING = 6

// Words at the beginning of a state.
export const ACKED = 0
export const CRASH = 1
export const STOP = 2
export const CUT = 3
export const BACK = 4
export const RESTARTS = 5
export const RENEWALS = 6
export const FAILS = 7
export const LEAVES = 8
export const ABSENT = 9
export const SILENT = 10
export const BUSIES = 11
const SEGMENTS = 12

// Words of a process.
export const STATUS = 0
export const STATE = 1
/** Segments that it has descriptors of: a bit each. */
export const HELD = 2
/** The segment that it appends to, plus one; 0: none. */
export const PEN = 3
/** Effects of its last step that are still to be carried out. */
export const UNDONE = 4
export const BITS = 5
/**
 * Changes that it has read from segments of others, (shifted by 4) that it will acknowledge, and (shifted by 8) one more than
 * the epoch of the handoff before which its work is to end.
 */
export const DATA = 6
export const MORE = 7
const PROCESS = 8
const QUIESCING_SHIFT = 8

// Bits of a process.
export const ACCEPTS = 1
export const LISTENERS = 2
export const DRAINING = 4
export const FROZEN = 8
/** Has asked whether its holder is alive. */
export const JUDGING = 16
/** Tries to connect again. */
export const RETRYING = 32
/** The last channel was to an earlier incarnation of the daemon. */
export const STALE = 64
/** The first of its effects is under way; what becomes of it is not settled yet. */
const WAITING = 128
/** Effects of one step wait behind those of another. */
const LATE = 256
/** Segments of others hold what it cannot read. */
export const UNREADABLE = 512
/** The application wanted to go. */
export const LEFT = 1024
/** Has written. */
const WROTE = 2048
/** Could not accept, or write, when it tried last. */
export const UNATTACHED = 4096
/** The application does work that may run in one process only. */
export const WORKS = 8192
/** No process waits any longer for the end of that work. */
const HURRIED = 16384
/** The application has done such work before. */
export const WORKED = 32768

// Bits of the last word of a process.
/** The process began to accept while it stands by. */
const RESUMED = 1
/** The event loop is blocked; it goes on for certain. */
export const BUSY = 2

// Words of a channel; its lower end is the one towards the joiner (member).
export const ENDS = 0
export const UP = 1
export const DOWN = 2
const LINK = 3

// Bits of a channel.
export const UPPER = 1
export const LOWER = 2
export const SEVERED = 4
/** Connected again, but the other side has not read the Back that says who it is. */
export const UNSEEN = 8
/** And before that it has to notice that the old channel is lost. */
export const RELOST = 16

// A segment: exists, sealed, marked (released), three changes, then its epoch.
const EXISTS = 1
const SEALED = 2
const MARKED = 4

export type Move = { readonly kind: 'prepare' | 'ack' | 'moved'; readonly slice: number }
export interface Parcel {
  readonly message: ToHolder | ToMember | Move
  /** The descriptors of segments that travel with it. */
  readonly segments: number
}

/** The outcome of an effect. */
export type OutcomeEvent =
  | Extract<MemberEvent, { type: 'begun' | 'failed' }>
  | Extract<HolderEvent, { type: 'unmade' | 'undelivered' }>

export function isOfMember(event: OutcomeEvent): event is Extract<MemberEvent, { type: 'begun' | 'failed' }> {
  return event.type === 'begun' || event.type === 'failed'
}

/** Between the effects of two steps. */
const STEP = { by: 'member', effect: { type: 'step' } } as const

export type Effect =
  | typeof STEP
  | { readonly by: 'member'; readonly effect: MemberEffect }
  | { readonly by: 'holder'; readonly effect: HolderEffect }

/** One that does not write yet, and may. */
const MAY_WRITE_YET: ReadonlySet<MemberPhase> = new Set(['joining', 'ready', 'beginning'])

export abstract class World {
  /** The state that is being built. */
  readonly words: Uint32Array
  protected readonly t: Uint16Array
  /** The state that is being left. */
  protected from: Uint16Array
  /** The broken rule of the last transition. */
  violation: string | null = null
  /** Descriptions of transitions are wanted. */
  labelled = false

  protected readonly lists = new Lists()
  protected readonly effects = new Interner<Effect>()
  protected readonly parcels = new Interner<Parcel>()
  private readonly parcelsOf = new WeakMap<Parcel['message'], Map<number, number>>()
  private readonly queue: Queue<Effect>
  /** The effects of a step that was made while one is settled. */
  private more = 0
  protected readonly all: number
  protected readonly segments: number
  private readonly processesAt: number
  private readonly linksAt: number
  protected readonly moreAt: number
  private emit: (kind: Kind, name: string) => void = () => {}
  /** A transition was left out because no segment was left: the state is not at rest. */
  cramped = false
  /** The transition needs more segments than there are: it is left out. */
  private abandoned = false
  private pumping = false
  /** The listeners are closed by order of a process that knew that another serves. */
  protected ordered = false
  protected readonly forwarded: ForwardedChange | null = null

  constructor(
    protected readonly bounds: Bounds,
    protected readonly rules: Rules,
    protected readonly parts: Parts,
    processes: number,
    protected readonly links: number,
    more: number,
  ) {
    this.queue = new Queue<Effect>({
      lists: this.lists,
      effects: this.effects,
      border: this.effects.id(STEP),
      make: parts.queue,
      needs: (failed, later) =>
        failed.effect.type !== 'step' &&
        later.effect.type !== 'step' &&
        (rules.begun || failed.effect.type === 'carry') &&
        parts.needs(failed as EmbeddedEffect, later as EmbeddedEffect),
    })
    this.all = processes
    this.segments = bounds.segments
    this.processesAt = SEGMENTS + this.segments
    this.linksAt = this.processesAt + processes * PROCESS
    this.moreAt = this.linksAt + links * LINK
    const forwardedAt = this.moreAt + more
    const length = forwardedAt + (bounds.forward ? ForwardedChange.WORDS : 0)
    this.words = new Uint32Array((length + 1) >> 1)
    this.t = new Uint16Array(this.words.buffer)
    this.from = this.t
    if (bounds.forward) this.forwarded = this.forwardedChange(forwardedAt)
  }

  private forwardedChange(at: number): ForwardedChange {
    const bit = 1 << this.bounds.writes
    const writes = (p: number): number => (this.mayWrite(p) ? this.get(p, PEN) - 1 : -1)
    return new ForwardedChange(this.rules, this.parts.impatient, this.t, at, this.links, {
      busy: p => (this.get(p, MORE) & BUSY) !== 0,
      phase: p => this.phaseOf(p),
      runs: p => this.get(p, STATUS) === RUNNING,
      mayWrite: p => writes(p) >= 0,
      waits: p => this.get(p, PEN) !== 0 || MAY_WRITE_YET.has(this.phaseOf(p)),
      knows: p => ((this.get(p, DATA) | this.changesIn(writes(p))) & bit) !== 0,
      append: p => {
        this.t[SEGMENTS + writes(p)]! |= bit << 3
      },
      acknowledge: () => {
        this.t[ACKED]! |= bit
      },
      made: () =>
        Array.from({ length: this.segments }, (_, s) => s).some(s => (this.changesIn(s) & bit) !== 0),
      hears: (p, q) => this.get(q, STATUS) === RUNNING && this.has(q, ACCEPTS) && this.leadsTo(p, q),
      bad: what => this.bad(what),
      done: (always, what) => this.done(always ? MUST : CHOICE, what),
    })
  }

  /** Phases that a process was in, messages sent, effects carried out. */
  visited(): Set<string> {
    const names = new Set(this.phases())
    for (const parcel of this.parcels.values()) names.add(`message ${parcel.message.kind}`)
    for (const { effect } of this.effects.values())
      if (effect.type !== 'step') names.add(`effect ${effect.type}`)
    return names
  }
  protected abstract phases(): string[]

  protected abstract start(): void
  protected abstract expand(): void
  /** The rules that must hold in every state. */
  protected abstract check(): string | null
  /** The rules that must hold where nothing happens any more without a wish or a fault. */
  protected abstract rest(onlyResumes: boolean): string | null
  protected abstract send(p: number, message: ToHolder): void
  protected abstract tell(p: number, to: number, message: ToMember): void
  protected abstract make(p: number, epochs: readonly number[], by: 'member' | 'holder'): void
  /** Whether a message of p to this process would arrive now. */
  protected abstract delivers(p: number, to: number): boolean
  /** Tells p's machine the outcome of an effect. */
  protected abstract hears(p: number, event: OutcomeEvent): void
  /** In which its member is. */
  protected abstract phaseOf(p: number): MemberPhase
  /** Whether a message of p to the control path reaches q, if q accepts. */
  protected abstract leadsTo(p: number, q: number): boolean
  protected abstract name(p: number): string
  /** Another one has the listeners. */
  protected abstract listened(except: number): boolean
  protected abstract onExit(p: number): void

  begin(): void {
    this.t.fill(0)
    this.t[CRASH] = this.bounds.crash
    this.t[STOP] = this.bounds.stop
    this.t[CUT] = this.bounds.cut
    this.t[BACK] = this.bounds.back
    this.t[RESTARTS] = this.bounds.restarts
    this.t[RENEWALS] = this.bounds.renewals
    this.t[FAILS] = this.bounds.fail
    this.t[LEAVES] = this.bounds.leave
    this.t[ABSENT] = this.bounds.absent
    this.t[SILENT] = this.bounds.silent
    this.t[BUSIES] = this.bounds.busy
    this.start()
  }

  successors(words: Uint32Array, emit: (kind: Kind, name: string) => void): void {
    this.from = new Uint16Array(words.buffer, words.byteOffset, words.length * 2)
    this.emit = emit
    this.cramped = false
    this.open()
    this.expand()
  }

  look(words: Uint32Array): void {
    this.words.set(words)
  }

  /** Right after `successors` of the same state. */
  atRest(onlyResumes: boolean): string | null {
    return this.cramped ? null : this.rest(onlyResumes)
  }

  /** The next transition begins in the state that is being left. */
  protected open(): void {
    this.t.set(this.from)
    this.violation = null
    this.abandoned = false
  }
  /** There is no room for what this transition makes. */
  protected abandon(): void {
    this.open()
    this.abandoned = true
  }

  /** The transition is complete. */
  protected done(kind: Kind, name: string): void {
    if (this.violation === null && !this.abandoned) this.violation = this.check()
    if (!this.abandoned && (this.violation !== null || this.changed())) this.emit(kind, name)
    this.open()
  }

  private changed(): boolean {
    const { t, from } = this
    for (let i = 0; i < t.length; i++) if (t[i] !== from[i]) return true
    return false
  }

  protected bad(what: string): void {
    if (this.violation === null) this.violation = what
  }

  // ---- words

  protected at(p: number, field: number): number {
    return this.processesAt + p * PROCESS + field
  }
  protected get(p: number, field: number): number {
    return this.t[this.processesAt + p * PROCESS + field]!
  }
  protected put(p: number, field: number, value: number): void {
    this.t[this.processesAt + p * PROCESS + field] = value
  }
  protected has(p: number, bit: number): boolean {
    return (this.t[this.processesAt + p * PROCESS + BITS]! & bit) !== 0
  }
  protected set(p: number, bit: number): void {
    this.t[this.processesAt + p * PROCESS + BITS]! |= bit
  }
  protected clear(p: number, bit: number): void {
    this.t[this.processesAt + p * PROCESS + BITS]! &= ~bit
  }
  /** Runs, or could run again. */
  protected alive(p: number): boolean {
    const status = this.get(p, STATUS)
    return status === RUNNING || status === STOPPED
  }
  protected link(k: number, field: number): number {
    return this.t[this.linksAt + k * LINK + field]!
  }
  protected setLink(k: number, field: number, value: number): void {
    this.t[this.linksAt + k * LINK + field] = value
  }
  /** Both ends open, and what is sent arrives. */
  protected connected(k: number): boolean {
    return (this.link(k, ENDS) & (UPPER | LOWER | SEVERED)) === (UPPER | LOWER)
  }
  protected post(k: number, queue: number, message: Parcel['message'], segments = 0): void {
    this.setLink(k, queue, this.lists.push(this.link(k, queue), this.parcel(message, segments)))
  }
  /** Most messages are of effects that are kept: their names are found without a look at what is in them. */
  private parcel(message: Parcel['message'], segments: number): number {
    if ('slice' in message) return this.parcels.id({ message, segments })
    let known = this.parcelsOf.get(message)
    if (known === undefined) {
      known = new Map()
      this.parcelsOf.set(message, known)
    }
    let id = known.get(segments)
    if (id === undefined) {
      id = this.parcels.id({ message, segments })
      known.set(segments, id)
    }
    return id
  }

  // ---- segments

  protected epochOf(segment: number): number {
    return this.t[SEGMENTS + segment]! >> 6
  }
  protected isSealed(segment: number): boolean {
    return (this.t[SEGMENTS + segment]! & SEALED) !== 0
  }
  protected isMarked(segment: number): boolean {
    return (this.t[SEGMENTS + segment]! & MARKED) !== 0
  }
  protected changesIn(segment: number): number {
    return (this.t[SEGMENTS + segment]! >> 3) & 7
  }
  /** All changes in the segments that p holds. */
  protected changesHeld(p: number): number {
    const held = this.get(p, HELD)
    let changes = 0
    for (let s = 0; s < this.segments; s++) if ((held >> s) & 1) changes |= this.changesIn(s)
    return changes
  }
  protected free(): number {
    let n = this.segments
    while (n > 0 && (this.t[SEGMENTS + n - 1]! & EXISTS) === 0) n--
    return this.segments - n
  }
  protected newSegment(epoch: number): number {
    const segment = this.segments - this.free()
    if (segment === this.segments) throw new Error('no room for another segment')
    this.t[SEGMENTS + segment] = EXISTS | (epoch << 6)
    return segment
  }
  /** The segment of this epoch that p holds, or -1. */
  protected find(p: number, epoch: number): number {
    if (epoch < 0) return -1
    const held = this.get(p, HELD)
    for (let s = this.segments - 1; s >= 0; s--) if ((held >> s) & 1 && this.epochOf(s) === epoch) return s
    return -1
  }
  protected isSealedFor(p: number, epoch: number): boolean {
    const segment = this.find(p, epoch)
    return segment >= 0 && this.isSealed(segment)
  }
  /** Bit e: segment e is sealed, as far as p can see. */
  protected sealedFor(p: number): number {
    const held = this.get(p, HELD)
    let mask = 0
    for (let s = 0; s < this.segments; s++)
      if ((held >> s) & 1 && this.isSealed(s)) mask |= 1 << this.epochOf(s)
    return mask & 0x1_ffff
  }

  // ---- effects

  /** `effects` of a step of p: carried out at once, or one by one with anything between them; behind those that wait. */
  protected run(p: number, effects: number, atOnce = false): void {
    if (effects === 0) return
    const waiting = this.get(p, UNDONE)
    const more = waiting === 0 ? effects : this.news(waiting, effects)
    if (this.pumping) {
      this.more = more
      return
    }
    if (more !== 0) this.put(p, UNDONE, this.queue.push(waiting, more))
    if (waiting === 0) this.pump(p, atOnce || this.closes(effects))
    else this.set(p, LATE)
  }

  /** To ask twice whether the holder lives is to ask once. */
  private news(waiting: number, effects: number): number {
    const there = this.lists.items(waiting)
    const items = this.lists.items(effects)
    if (!items.some(id => there.includes(id) && isSilent(this.effects.value(id)))) return effects
    return this.lists.of(items.filter(id => !there.includes(id) || !isSilent(this.effects.value(id))))
  }

  /** Carries out the first effect that others can see, and what they cannot; `whole`: all there are. */
  private pump(p: number, whole: boolean, seen = 0): void {
    this.pumping = true
    let visible = seen
    for (let list = this.get(p, UNDONE); list !== 0; list = this.get(p, UNDONE)) {
      const effect = this.effects.value(this.lists.head(list))
      if (!whole && !this.bounds.atomic && !isSilent(effect) && ++visible > 1) break
      if (this.isOpen(p, effect) || (this.bounds.lag && !whole && takesTime(effect))) {
        this.set(p, WAITING)
        break
      }
      this.settle(p, effect, !(effect.effect.type === 'carry' && this.has(p, UNREADABLE)))
      if (this.abandoned || this.get(p, STATUS) !== RUNNING) break
    }
    this.pumping = false
    if (this.get(p, UNDONE) === 0) this.clear(p, LATE)
  }

  /** The first effect of p is carried out, or fails; its machine hears what the queue tells of it. */
  private settle(p: number, { by, effect }: Effect, done: boolean): void {
    const list = this.get(p, UNDONE)
    if (effect.type === 'step') {
      this.put(p, UNDONE, this.lists.tail(list))
      return
    }
    const slow = takesTime({ by, effect } as Effect)
    const told = this.queue.told(list, done, slow)
    if (told.wrong !== null) this.bad(told.wrong)
    const reached = effect.type !== 'tell' || this.delivers(p, effect.to)
    if (done) this.perform(p, { by, effect } as Effect)
    else {
      if (effect.type === 'carry') this.set(p, UNREADABLE)
      if (effect.type === 'accept' || effect.type === 'write') this.set(p, UNATTACHED)
    }
    if (this.get(p, STATUS) !== RUNNING) return
    this.more = 0
    if (told.outcome !== 'nothing') this.tellOutcome(p, effect, told.outcome === 'done', reached)
    if (this.abandoned || this.get(p, STATUS) !== RUNNING) return
    this.put(p, UNDONE, this.queue.after(list, done, slow, this.more))
  }

  private tellOutcome(
    p: number,
    effect: Exclude<Effect, typeof STEP>['effect'],
    done: boolean,
    reached: boolean,
  ): void {
    switch (effect.type) {
      case 'accept':
        if (!done) this.hears(p, { type: 'failed', effect: 'accept' })
        return
      case 'carry':
        if (!done) this.hears(p, { type: 'failed', effect: 'carry', epoch: effect.below })
        return
      case 'write':
        this.hears(
          p,
          done
            ? { type: 'begun', epoch: effect.epoch }
            : { type: 'failed', effect: 'write', epoch: effect.epoch },
        )
        return
      case 'send':
        if (!done) this.hears(p, { type: 'failed', effect: 'back' })
        return
      case 'make':
        if (!done) this.hears(p, { type: 'unmade' })
        return
      case 'tell':
        if (effect.message.kind === 'offer' && !reached)
          this.hears(p, { type: 'undelivered', id: effect.to, taken: false })
        return
    }
  }

  /** Whether the effect may be carried out, or fail. */
  private isOpen(p: number, { by, effect }: Effect): boolean {
    if (this.t[FAILS] === 0) return false
    switch (effect.type) {
      case 'accept':
        return this.phaseOf(p) !== 'orphan' || !this.rules.begun
      case 'carry':
        return !this.has(p, UNREADABLE)
      case 'write':
        return true
      case 'send':
        return effect.message.kind === 'back'
      case 'make':
        return by === 'holder' && effect.offer === true
      default:
        return false
    }
  }

  /** Leaving is judged at the moment of the decision: no process can know which other dies a moment later. */
  private closes(effects: number): boolean {
    return this.lists.items(effects).some(id => this.effects.value(id).effect.type === 'closeListeners')
  }

  /** Whether there is room for the segments that these effects make. */
  protected fits(effects: number): boolean {
    if (effects === 0) return true
    let wanted = 0
    for (const id of this.lists.items(effects)) {
      const { effect } = this.effects.value(id)
      if (effect.type === 'make') wanted += effect.epochs.length
    }
    if (wanted === 0 || wanted <= this.free()) return true
    this.cramped = true
    return false
  }

  protected perform(p: number, { by, effect }: Effect): void {
    switch (effect.type) {
      case 'send':
        this.send(p, effect.message)
        return
      case 'tell':
        this.tell(p, effect.to, effect.message)
        return
      case 'accept':
        this.set(p, ACCEPTS)
        this.clear(p, UNATTACHED)
        if (this.phaseOf(p) === 'standby') this.put(p, MORE, this.get(p, MORE) | RESUMED)
        return
      case 'stopAccepting':
        this.stopAccepting(p)
        return
      case 'closeListeners':
        this.closeListeners(p)
        return
      case 'quiesce':
        this.put(p, DATA, this.changesOf(p) | ((effect.epoch + 1) << QUIESCING_SHIFT))
        return
      case 'unquiesce':
        this.workAgain(p)
        return
      case 'freeze':
        this.set(p, FROZEN)
        return
      case 'thaw':
        this.clear(p, FROZEN)
        return
      case 'carry':
        this.carry(p, effect.below)
        return
      case 'seal': {
        const held = this.get(p, HELD)
        for (let s = 0; s < this.segments; s++) {
          const epoch = this.epochOf(s)
          if ((held >> s) & 1 && epoch >= effect.from && epoch < effect.below) this.t[SEGMENTS + s]! |= SEALED
        }
        return
      }
      case 'mark': {
        const segment = this.find(p, effect.epoch)
        if (segment >= 0) this.t[SEGMENTS + segment]! |= MARKED
        return
      }
      case 'make':
        this.make(p, effect.epochs, by)
        return
      case 'write': {
        this.put(p, MORE, this.get(p, MORE) & ~RESUMED)
        // An earlier request may have failed by now: the process ends writing next.
        if (this.rules.begun && !this.has(p, ACCEPTS | LATE))
          this.bad(`${this.name(p)} writes, and does not accept`)
        let segment = this.find(p, effect.epoch)
        if (segment < 0) {
          if (this.rules.sharedSegment)
            this.bad(`${this.name(p)} is to write in a segment that it does not hold`)
          segment = this.newSegment(effect.epoch)
          this.put(p, HELD, this.get(p, HELD) | (1 << segment))
        }
        this.put(p, PEN, segment + 1)
        if (!this.has(p, WORKED) && !this.isSealed(segment)) this.alone(p)
        this.work(p)
        this.set(p, WROTE)
        if (this.has(p, ACCEPTS)) this.clear(p, UNATTACHED)
        this.clear(p, FROZEN)
        return
      }
      case 'endWriting':
        this.put(p, PEN, 0)
        this.ended(p)
        this.clear(p, HURRIED)
        this.clear(p, FROZEN)
        return
      case 'judge':
        this.set(p, JUDGING)
        return
      case 'reconnect':
        this.set(p, RETRYING)
        this.hangUp(p)
        return
      case 'drain':
        this.set(p, DRAINING)
        return
      case 'exit':
        this.exit(p)
        return
      case 'step':
      case 'failed':
      case 'refuse':
      case 'becomeHolder':
        return
    }
  }

  // ---- what may be done in one process only

  private changesOf(p: number): number {
    return this.get(p, DATA) & ((1 << QUIESCING_SHIFT) - 1)
  }
  private work(p: number): void {
    this.workAgain(p)
    this.clear(p, HURRIED)
  }
  /** For a handoff that is off; the time that it had for the next may be over by now. */
  private workAgain(p: number): void {
    if (!this.bounds.work) return
    this.set(p, WORKS | WORKED)
    this.put(p, DATA, this.changesOf(p))
  }
  private ended(p: number): void {
    this.clear(p, WORKS)
    this.put(p, DATA, this.changesOf(p))
  }
  /** The time of p is over. */
  protected hurry(p: number): void {
    this.set(p, HURRIED)
  }

  /** The application has ended the work that it was asked to end. */
  protected works(p: number): void {
    const asked = this.get(p, DATA) >> QUIESCING_SHIFT
    if (asked === 0) return
    this.ended(p)
    this.quiesced(p, asked - 1)
  }
  protected abstract quiesced(p: number, epoch: number): void

  /** No other process does the work when one begins for the first time, unless a fault kept it from being asked. */
  private alone(p: number): void {
    if (!this.bounds.work || !this.untroubled() || this.t[FAILS] !== this.bounds.fail) return
    for (let q = 0; q < this.all; q++) {
      if (q !== p && this.alive(q) && this.has(q, WORKS) && !this.has(q, HURRIED))
        this.bad(`two work at once: ${this.name(p)} begins before ${this.name(q)} has ended`)
    }
  }

  /** No fault yet, but effects that failed. */
  private untroubled(): boolean {
    const { t, bounds } = this
    const ended = t[LEAVES] !== bounds.leave
    return t[CRASH] === bounds.crash && t[STOP] === bounds.stop && t[CUT] === bounds.cut && !ended
  }

  /** No process that served well leaves before another has begun. */
  private turnedAway(p: number): void {
    if (!this.has(p, WROTE) || this.has(p, LEFT | UNREADABLE | UNATTACHED) || !this.untroubled()) return
    for (let q = 0; q < this.all; q++) {
      const pen = this.get(q, PEN)
      if (this.alive(q) && pen !== 0 && !this.isSealed(pen - 1)) return
    }
    this.bad(`nobody may write: ${this.name(p)} was turned away before another had begun`)
  }

  private stopAccepting(p: number): void {
    if (!this.has(p, ACCEPTS)) return
    this.clear(p, ACCEPTS)
    this.put(p, MORE, this.get(p, MORE) & ~RESUMED)
    const { t, bounds } = this
    if (t[CRASH] !== bounds.crash || t[LEAVES] !== bounds.leave) return
    // A successor without a channel takes the seal of an elder that could not accept for its order.
    if (t[FAILS] !== bounds.fail && t[CUT] !== bounds.cut) return
    for (let q = 0; q < this.all; q++) if (this.alive(q) && this.has(q, ACCEPTS)) return
    this.bad(`nobody accepts: ${this.name(p)} stopped first`)
  }

  private closeListeners(p: number): void {
    if (!this.has(p, LISTENERS)) return
    this.stopAccepting(p)
    this.clear(p, LISTENERS)
    this.turnedAway(p)
    const ended = this.t[LEAVES] !== this.bounds.leave
    if (!this.ordered && !ended && !this.has(p, LATE) && !this.listened(p))
      this.bad(`refused: ${this.name(p)}, healthy, closes the last listener`)
  }

  private carry(p: number, below: number): void {
    const held = this.get(p, HELD)
    let seen = 0
    for (let s = 0; s < this.segments; s++) {
      if (((held >> s) & 1) === 0 || this.epochOf(s) >= below) continue
      const changes = this.changesIn(s)
      if (!this.rules.requestId && (seen & changes) !== 0) {
        this.bad(`a change is applied twice: in two segments that ${this.name(p)} reads`)
      }
      seen |= changes
    }
    this.put(p, DATA, this.get(p, DATA) | seen)
  }

  protected exit(p: number): void {
    this.put(p, STATUS, EXITED)
    for (let field = STATE; field < PROCESS; field++) this.put(p, field, 0)
    this.closeEnds(p)
    this.forwarded?.leave(p)
    this.onExit(p)
  }

  /** Closes p's end of the channel to its holder. */
  protected abstract hangUp(p: number): void
  /** Closes p's ends of all channels; messages to p are lost, messages from p are not. */
  protected abstract closeEnds(p: number): void

  // ---- what may happen anywhere

  /** Signals, and clients of p. True when p is to be asked for more. */
  protected common(p: number): boolean {
    const { t } = this
    const status = this.get(p, STATUS)
    const name = this.labelled ? this.name(p) : ''
    if (status === KILLED) {
      this.put(p, STATUS, DEAD)
      this.done(MUST, `the pidfd of ${name} tells`)
      return false
    }
    if (status === STOPPED) {
      this.put(p, STATUS, RUNNING)
      this.done(RESUME, `${name} SIGCONT`)
    }
    if ((status === RUNNING || status === STOPPED) && t[CRASH]! > 0) {
      t[CRASH]!--
      for (let field = STATE; field < PROCESS; field++) this.put(p, field, 0)
      this.put(p, STATUS, KILLED)
      this.closeEnds(p)
      this.forwarded?.leave(p)
      this.onKill(p)
      this.done(FAULT, `${name} SIGKILL`)
    }
    if (status !== RUNNING) return false
    if (t[STOP]! > 0) {
      t[STOP]!--
      this.put(p, STATUS, STOPPED)
      this.done(FAULT, `${name} SIGSTOP`)
    }
    if ((this.get(p, MORE) & BUSY) !== 0) {
      this.put(p, MORE, this.get(p, MORE) & ~BUSY)
      this.done(MUST, `${name} is busy no longer`)
      return false
    }
    if (t[BUSIES]! > 0 && p > 0 && p < this.links && this.phaseOf(p) === 'serving') {
      t[BUSIES]!--
      this.put(p, MORE, this.get(p, MORE) | BUSY)
      this.done(CHOICE, `${name} is busy`)
    }
    this.clients(p, name)
    if (p < this.links) this.forwarded?.expand(p)
    const todo = this.get(p, UNDONE)
    if (todo === 0) return true
    const effect = this.effects.value(this.lists.head(todo))
    if (!this.has(p, WAITING)) {
      this.pump(p, false)
      this.done(MUST, this.labelled ? `${name} goes on: ${this.describe(todo)}` : '')
      return false
    }
    if (this.isOpen(p, effect)) {
      t[FAILS]!--
      this.goOn(p, effect, false)
      this.done(FAULT, this.labelled ? `${name}: ${this.describe(todo)} fails` : '')
    }
    this.goOn(p, effect, true)
    this.done(MUST, this.labelled ? `${name} goes on: ${this.describe(todo)}` : '')
    return this.bounds.lag && takesTime(effect)
  }

  private goOn(p: number, effect: Effect, done: boolean): void {
    this.clear(p, WAITING)
    this.pumping = true
    this.settle(p, effect, done)
    this.pumping = false
    if (!this.abandoned && this.get(p, STATUS) === RUNNING) this.pump(p, false, 1)
  }

  /** While it stands by, it finds that it cannot read what is written by the one that serves. */
  protected follow(p: number): void {
    if (this.t[FAILS] === 0 || this.has(p, UNREADABLE) || this.phaseOf(p) !== 'standby') return
    this.t[FAILS]!--
    this.set(p, UNREADABLE)
    this.hears(p, { type: 'failed', effect: 'follow' })
    this.done(FAULT, this.labelled ? `${this.name(p)} cannot read what is written` : '')
  }

  protected onKill(_p: number): void {}
  private clients(p: number, name: string): void {
    const pen = this.get(p, PEN)
    const data = this.get(p, DATA)
    const pending = data >> 4
    const taken = this.t[ACKED]! | pending
    for (let w = 0; w < this.bounds.writes; w++) {
      const bit = 1 << w
      if ((pending & bit) !== 0) {
        this.put(p, DATA, data & ~(bit << 4))
        this.t[ACKED]! |= bit
        this.done(MUST, `${name} acknowledges change ${w + 1}`)
      }
      if (pen === 0 || (taken & bit) !== 0 || !this.has(p, ACCEPTS) || this.has(p, FROZEN)) continue
      const segment = pen - 1
      if (((data | this.changesIn(segment)) & bit) !== 0) {
        if (this.rules.requestId) this.put(p, DATA, data | (bit << 4))
        else this.bad(`a change is applied twice: asked for again at ${this.name(p)}`)
        this.done(CHOICE, `a client asks ${name} again for change ${w + 1}`)
      } else if (!this.isSealed(segment)) {
        this.t[SEGMENTS + segment]! |= bit << 3
        this.put(p, DATA, data | (bit << 4))
        this.done(CHOICE, `${name} appends change ${w + 1}`)
      }
    }
  }

  /** Cuts of channel k. */
  protected cuts(k: number, name: string): void {
    if (this.t[CUT] === 0 || !this.connected(k)) return
    const up = this.link(k, UP)
    const down = this.link(k, DOWN)
    for (let lost = 0; lost < 4; lost++) {
      if (((lost & 1) !== 0 && up === 0) || ((lost & 2) !== 0 && down === 0)) continue
      this.t[CUT]!--
      this.setLink(k, ENDS, this.link(k, ENDS) | SEVERED)
      if ((lost & 1) !== 0) this.setLink(k, UP, 0)
      if ((lost & 2) !== 0) this.setLink(k, DOWN, 0)
      const what = this.labelled
        ? [
            ...((lost & 1) !== 0 ? this.lists.items(up) : []),
            ...((lost & 2) !== 0 ? this.lists.items(down) : []),
          ]
            .map(id => this.parcels.value(id).message.kind)
            .join(', ')
        : ''
      this.done(FAULT, `the channel of ${name} is cut, losing ${what === '' ? 'nothing' : what}`)
    }
  }

  /** The process tried to serve, and could not read what others wrote: another try would fail, too. */
  protected foundUnreadable(p: number): boolean {
    return this.has(p, UNREADABLE) && this.phaseOf(p) === 'unfit'
  }

  /** An owner that could not begin tries again as soon as this one, which was told to go, has ended: its drain may last. */
  protected waitsForDrain({ owner, unfit, bound }: HolderState): boolean {
    return (
      this.bounds.lasting &&
      unfit.includes(owner) &&
      bound.some(p => this.get(p, STATUS) === RUNNING && this.has(p, DRAINING))
    )
  }

  /** A process that was told to stop, or leaves, has let go of its segment. */
  protected keepsWriting(p: number): string | null {
    if (this.get(p, UNDONE) !== 0 || this.get(p, PEN) === 0) return null
    switch (this.phaseOf(p)) {
      case 'serving':
        return this.has(p, FROZEN) ? `${this.name(p)} serves, and its changes wait` : null
      case 'standby':
      case 'unfit':
      case 'leaving':
        return `${this.name(p)} keeps writing in ${this.phaseOf(p)}`
      default:
        return null
    }
  }

  /** One that does not serve accepts only in place of one that cannot. */
  protected keepsAccepting(p: number): string | null {
    if (this.get(p, UNDONE) !== 0 || !this.has(p, ACCEPTS)) return null
    const phase = this.phaseOf(p)
    switch (phase) {
      case 'joining':
      case 'ready':
        return `two accept: ${this.name(p)} before its commit`
      case 'standby':
        return (this.get(p, MORE) & RESUMED) !== 0 ? null : `two accept: ${this.name(p)} while it stands by`
      case 'leaving':
      case 'gone':
        return `two accept: ${this.name(p)} while it leaves`
      default:
        return null
    }
  }

  /** A probation of this one may last. */
  protected lasts(owner: number): boolean {
    return this.bounds.lasting && this.get(owner, STATUS) === RUNNING && this.has(owner, ACCEPTS)
  }

  /** While a probation lasts, and the one that serves is well, one accepts and one writes. */
  protected duringProbation(owner: number, helped: boolean): string | null {
    if (this.get(owner, STATUS) !== RUNNING || this.has(owner, UNATTACHED | UNREADABLE | LEFT)) return null
    let accepting = 0
    let writing = 0
    for (let p = 0; p < this.links; p++) {
      if (this.get(p, STATUS) !== RUNNING) continue
      if (this.has(p, ACCEPTS)) accepting++
      if (this.mayWrite(p)) writing++
    }
    if (accepting !== 1 && !helped) return `not exactly one accepts in a probation: ${accepting}`
    return writing === 1 ? null : `not exactly one writes in a probation: ${writing}`
  }

  /** Whether p appends, and its records count. */
  protected mayWrite(p: number): boolean {
    const pen = this.get(p, PEN)
    return pen !== 0 && !this.isSealed(pen - 1) && !this.has(p, FROZEN)
  }

  /** At most one may write in a segment that is not sealed, and it knows every change that was acknowledged. */
  protected writers(): string | null {
    let writer = -1
    for (let p = 0; p < this.all; p++) {
      const pen = this.get(p, PEN)
      if (pen === 0 || !this.alive(p) || this.isSealed(pen - 1)) continue
      if (writer >= 0) return `two writers that are not fenced: ${this.name(writer)} and ${this.name(p)}`
      writer = p
      if ((this.t[ACKED]! & ~(this.get(p, DATA) | this.changesIn(pen - 1))) !== 0) {
        return `an acknowledged change is lost: ${this.name(p)} serves without it`
      }
    }
    return null
  }

  /** Held open by processes none of which accepts. */
  protected blackHole(): string | null {
    let held = false
    for (let p = 0; p < this.links; p++) {
      if (this.get(p, STATUS) !== RUNNING) continue
      if (this.has(p, ACCEPTS)) return null
      held ||= this.has(p, LISTENERS) && !this.has(p, UNATTACHED)
    }
    return held ? 'black hole: listeners are open, nobody accepts' : null
  }

  protected describe(list: number): string {
    const { effect } = this.effects.value(this.lists.head(list))
    if (effect.type === 'send' || effect.type === 'tell') return `${effect.type} ${effect.message.kind}`
    return effect.type
  }
}

function takesTime({ effect }: Effect): boolean {
  return effect.type === 'accept' || effect.type === 'carry' || effect.type === 'endWriting'
}

function isSilent({ effect }: Effect): boolean {
  switch (effect.type) {
    case 'step':
    case 'judge':
    case 'reconnect':
    case 'becomeHolder':
    case 'failed':
    case 'refuse':
    case 'drain':
      return true
    default:
      return false
  }
}
