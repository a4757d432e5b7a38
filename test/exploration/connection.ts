/**
 * One live connection, and the move log of each pair of processes: the real `stepMoveOut` and `stepMoveIn`. The
 * log answers them at once (an append or a seal is one system call).
 */
import {
  initialMoveIn,
  initialMoveOut,
  type MoveIn,
  type MoveInEffect,
  type MoveInEvent,
  type MoveOut,
  type MoveOutEffect,
  type MoveOutEvent,
  NO_SLICE,
} from '../../src/handoff/move-machine.js'
import type { Rules } from '../../src/handoff/rules.js'
import { Interner } from './interning.js'
import type { Parts } from './parts.js'
import type { Move } from './world.js'

/** Slices that one process sends to another. */
const SLICES = 2
// Words: the connection, and for each pair the sender, the receiver and the log.
const READERS = 0x000f
const HOLDERS_SHIFT = 4
const ENDED = 0x0100
/** A process that sent it has taken it back: what it reads from then on is in no slice that is on its way. */
const BACK = 0x0200
/** Bytes were read then. */
const MORE_READ = 0x0400
const PAIR = 3
// The log: sealed, then two bits for each slice.
const LOG_SEALED = 1
/** A bit for each slice: it was sent when those bytes had been read. */
const READ_SHIFT = 1 + 2 * SLICES
const RECORDS = ['nothing', 'moved', 'back'] as const

export interface HolderHost {
  post(k: number, up: boolean, message: Move): void
  bad(what: string): void
  alive(p: number): boolean
  anyKilled(): boolean
  name(p: number): string
}

export class Connection {
  private readonly outs = new Interner<MoveOut>()
  private readonly ins = new Interner<MoveIn>()

  static words(pairs: number): number {
    return 1 + pairs * PAIR
  }

  constructor(
    private readonly rules: Rules,
    private readonly parts: Pick<Parts, 'moveIn' | 'moveOut'>,
    private readonly t: Uint16Array,
    private readonly base: number,
    private readonly around: HolderHost,
  ) {
    this.outs.id(initialMoveOut())
    this.ins.id(initialMoveIn())
  }

  start(): void {
    this.t[this.base] = 1 | (1 << HOLDERS_SHIFT)
  }

  private pair(k: number): number {
    return this.base + 1 + k * PAIR
  }
  private reads(p: number): boolean {
    return ((this.t[this.base]! >> p) & 1) === 1
  }
  private holds(p: number): boolean {
    return ((this.t[this.base]! >> (HOLDERS_SHIFT + p)) & 1) === 1
  }
  private drop(p: number): void {
    this.t[this.base]! &= ~((1 << p) | (1 << (HOLDERS_SHIFT + p)))
  }
  private unheld(): boolean {
    return this.t[this.base]! >> HOLDERS_SHIFT === 0
  }

  /** p ends, or is killed. */
  leave(p: number, killed: boolean, parent: (k: number) => number): void {
    if (this.holds(p)) {
      this.drop(p)
      if (!killed && this.unheld() && !this.around.anyKilled()) {
        this.around.bad(`connection closed: ${this.around.name(p)} drops the last descriptor`)
      }
    }
    this.t[this.pair(p) + 1] = 0
    for (let k = p + 1; k < 4 && this.pair(k) < this.t.length; k++)
      if (parent(k) === p) this.t[this.pair(k)] = 0
  }

  // ---- the sender p of pair k

  prepare(k: number, p: number): boolean {
    const out = this.outs.value(this.t[this.pair(k)]!)
    if (!this.reads(p) || out.last === SLICES) return false
    return this.give(k, p, { type: 'start' })
  }
  deadline(k: number, p: number): boolean {
    return (
      this.outs.value(this.t[this.pair(k)]!).pending !== NO_SLICE && this.give(k, p, { type: 'deadline' })
    )
  }
  lose(k: number, p: number): void {
    this.give(k, p, { type: 'lost' })
  }

  private give(k: number, p: number, event: MoveOutEvent): boolean {
    const at = this.pair(k)
    const step = this.parts.moveOut(this.outs.value(this.t[at]!), event, this.rules)
    const id = this.outs.id(step.state)
    const changed = id !== this.t[at] || step.effects.length > 0
    this.t[at] = id
    for (const effect of step.effects) this.onSender(k, p, effect)
    return changed
  }
  private onSender(k: number, p: number, effect: MoveOutEffect): void {
    const log = this.pair(k) + 2
    switch (effect.type) {
      case 'prepare':
        this.t[this.base]! &= ~(1 << p)
        if (this.moreRead) this.t[log]! |= 1 << (READ_SHIFT + effect.slice - 1)
        this.around.post(k, false, { kind: 'prepare', slice: effect.slice })
        return
      case 'log': {
        const written = (this.t[log]! & LOG_SEALED) === 0
        if (written) {
          const shift = 1 + 2 * (effect.slice - 1)
          this.t[log] = (this.t[log]! & ~(3 << shift)) | (RECORDS.indexOf(effect.record) << shift)
        }
        this.give(k, p, { type: 'logged', slice: effect.slice, record: effect.record, written })
        return
      }
      case 'drop':
        this.drop(p)
        if (this.unheld() && this.around.alive(k)) {
          this.around.bad(
            `connection closed: ${this.around.name(p)} drops what ${this.around.name(k)} has let go`,
          )
        }
        this.around.post(k, false, { kind: 'moved', slice: effect.slice })
        return
      case 'takeBack':
        this.t[this.base]! |= (1 << p) | BACK
        return
    }
  }

  // ---- the receiver p, which is k of pair k

  doubt(k: number, fate: 'alive' | 'dead' | 'unknown'): boolean {
    if (fate === 'unknown' || this.ins.value(this.t[this.pair(k) + 1]!).held === NO_SLICE) return false
    return this.take(k, { type: 'doubt', sender: fate })
  }
  private take(k: number, event: MoveInEvent): boolean {
    const at = this.pair(k) + 1
    const step = this.parts.moveIn(this.ins.value(this.t[at]!), event, this.rules)
    const id = this.ins.id(step.state)
    const changed = id !== this.t[at] || step.effects.length > 0
    this.t[at] = id
    for (const effect of step.effects) this.onReceiver(k, effect)
    return changed
  }
  private onReceiver(k: number, effect: MoveInEffect): void {
    const log = this.pair(k) + 2
    switch (effect.type) {
      case 'acknowledge':
        if ((this.t[this.base]! & ENDED) === 0) this.t[this.base]! |= 1 << (HOLDERS_SHIFT + k)
        this.around.post(k, true, { kind: 'ack', slice: effect.slice })
        return
      case 'adopt':
        if ((this.t[this.base]! & ENDED) !== 0) return
        this.t[this.base]! |= 1 << k
        if (this.moreRead && ((this.t[log]! >> (READ_SHIFT + effect.slice - 1)) & 1) === 0)
          this.around.bad(`bytes are lost: ${this.around.name(k)} reads behind what another has read`)
        return
      case 'release':
        if (!this.holds(k)) return
        this.drop(k)
        if (this.unheld() && !this.around.anyKilled()) {
          this.around.bad(`connection closed: ${this.around.name(k)} drops the last descriptor`)
        }
        return
      case 'consult': {
        this.t[log]! |= LOG_SEALED
        const record = RECORDS[(this.t[log]! >> (1 + 2 * (effect.slice - 1))) & 3]!
        this.take(k, { type: 'log', slice: effect.slice, record, sender: effect.sender })
        return
      }
    }
  }

  /** A message of pair k reaches p. */
  hear(k: number, p: number, message: Move): void {
    switch (message.kind) {
      case 'ack':
        this.give(k, p, { type: 'ack', slice: message.slice })
        return
      case 'prepare':
      case 'moved':
        this.take(k, { type: message.kind, slice: message.slice })
        return
    }
  }

  // ---- the client

  /** Sends on: the process that has taken the connection back reads bytes that the other does not know of. */
  read(p: number): boolean {
    if (!this.reads(p) || (this.t[this.base]! & (BACK | MORE_READ)) !== BACK) return false
    this.t[this.base]! |= MORE_READ
    return true
  }
  private get moreRead(): boolean {
    return (this.t[this.base]! & MORE_READ) !== 0
  }
  /** Leaves p, which drains. */
  end(p: number): boolean {
    if (!this.reads(p)) return false
    this.t[this.base] = ENDED
    return true
  }
  /** p cannot exit yet. */
  busy(p: number, parent: (k: number) => number): boolean {
    if (this.holds(p)) return true
    if (this.ins.value(this.t[this.pair(p) + 1]!).held !== NO_SLICE) return true
    for (let k = p + 1; k < 4 && this.pair(k) < this.t.length; k++) {
      if (parent(k) === p && this.outs.value(this.t[this.pair(k)]!).pending !== NO_SLICE) return true
    }
    return false
  }

  check(): string | null {
    const readers = this.t[this.base]! & READERS
    return (readers & (readers - 1)) === 0 ? null : 'two generations read the connection'
  }
  rest(): string | null {
    const readers = this.t[this.base]! & READERS
    const holders = (this.t[this.base]! >> HOLDERS_SHIFT) & 0xf
    if (holders !== 0 && readers === 0) return 'stuck connection: held, read by nobody'
    return holders === readers
      ? null
      : 'stale descriptor: a connection has two holders at rest, its FIN never goes'
  }
}
