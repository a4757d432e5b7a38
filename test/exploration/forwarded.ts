/**
 * One change that is made in a process that does not write, or waits for a handoff there: its way to the one that writes
 * (src/state/forward-queue.ts), as a model. The author sends it again when the way breaks, perhaps to another, under the same id.
 */

import type { MemberPhase } from '../../src/handoff/phases.js'
import type { Rules } from '../../src/handoff/rules.js'

// The first word: who has made it, plus one; then what has come of it.
const AUTHOR = 0x0007
const BEGUN = 0x0008
/** The change has left its author, which cannot know the outcome. */
const SENT = 0x0010
/** The author was told that the change was not made. */
const REFUSED = 0x0020
/** On its way to its author: it was made. */
const ANSWER = 0x0040
// The second word: a bit for each process that it is on its way to, and (shifted) in whose queue it waits.
const QUEUES_SHIFT = 8

export interface ForwardedWorld {
  phase(p: number): MemberPhase
  /** Does nothing at present, and goes on for certain. */
  busy(p: number): boolean
  /** Not stopped, not dead. */
  runs(p: number): boolean
  /** Whether p could append now. */
  mayWrite(p: number): boolean
  /** Whether p may append later, in the segment that it has, or will have. */
  waits(p: number): boolean
  /** Whether p knows that this change was made. */
  knows(p: number): boolean
  append(p: number): void
  acknowledge(): void
  /** Whether the change is in a segment. */
  made(): boolean
  /** Whether q hears messages of `p` to the control path now. */
  hears(p: number, q: number): boolean
  bad(what: string): void
  /** `always`: it happens unless something else does; else it may. */
  done(always: boolean, what: string): void
}

export class ForwardedChange {
  static readonly WORDS = 2

  constructor(
    private readonly rules: Rules,
    private readonly impatient: boolean,
    private readonly t: Uint16Array,
    private readonly base: number,
    private readonly processes: number,
    private readonly around: ForwardedWorld,
  ) {}

  private get author(): number {
    return (this.t[this.base]! & AUTHOR) - 1
  }
  private is(bit: number): boolean {
    return (this.t[this.base]! & bit) !== 0
  }
  private set(bit: number): void {
    this.t[this.base]! |= bit
  }
  private onWay(q: number): boolean {
    return ((this.t[this.base + 1]! >> q) & 1) === 1
  }
  private queued(q: number): boolean {
    return ((this.t[this.base + 1]! >> (QUEUES_SHIFT + q)) & 1) === 1
  }
  private drop(bits: number): void {
    this.t[this.base + 1]! &= ~bits
  }

  /** Whether p waits for its own change. */
  busy(p: number): boolean {
    return this.author === p
  }

  /** p has ended: what it had, and what was on its way to it, is lost. */
  leave(p: number): void {
    this.drop((1 << p) | (1 << (QUEUES_SHIFT + p)))
    if (this.author === p) this.t[this.base]! &= ~(AUTHOR | ANSWER)
  }

  /** The possible steps of p. */
  expand(p: number): void {
    const { around } = this
    if (!this.is(BEGUN)) {
      if (this.forwards(p) || around.phase(p) === 'frozen') {
        this.set(BEGUN | (p + 1))
        around.done(false, `a handler of P${p} makes a change`)
      }
      return
    }
    if (this.author === p) this.asAuthor(p)
    this.asWriter(p)
  }

  /** Another was given the right to write. */
  private forwards(p: number): boolean {
    const phase = this.around.phase(p)
    return phase === 'standby' || phase === 'leaving' || phase === 'orphan'
  }

  private asAuthor(p: number): void {
    const { around } = this
    if (this.is(ANSWER)) {
      this.settle()
      around.acknowledge()
      around.done(true, `P${p} hears that its change is made`)
      // The way breaks, and the answer is lost.
      this.t[this.base]! &= ~ANSWER
      around.done(true, `P${p} loses the answer`)
    }
    if (around.mayWrite(p)) {
      this.make(p)
      this.settle()
      around.acknowledge()
      around.done(true, `P${p} writes again, and makes its change`)
      return
    }
    if (!this.forwards(p)) return
    let busy = false
    for (let q = 0; q < this.processes; q++) {
      if (q === p || this.onWay(q) || this.queued(q) || !around.hears(p, q)) continue
      if (around.busy(q)) {
        // The change is sent when that process has said that it takes changes.
        busy = true
        continue
      }
      this.t[this.base + 1]! |= 1 << q
      this.set(SENT)
      around.done(true, `P${p} sends its change to P${q}`)
    }
    if (busy) {
      if (!this.impatient) return
      if (!this.is(SENT)) around.bad('a forwarded change is refused: the one that writes is only busy')
    }
    // The change has waited for too long.
    const refused = !this.is(SENT) || !this.rules.refuseUnsent
    this.settle()
    if (refused) {
      this.set(REFUSED)
      if (around.made()) around.bad('a forwarded change is refused, and made')
    }
    around.done(true, `P${p} gives up${refused ? ', and says that it is not made' : ''}`)
  }

  private asWriter(p: number): void {
    const { around } = this
    if (this.onWay(p)) {
      this.drop(1 << p)
      if (around.waits(p)) this.t[this.base + 1]! |= 1 << (QUEUES_SHIFT + p)
      around.done(true, `P${p} gets a forwarded change`)
      // The way breaks.
      this.drop(1 << p)
      around.done(true, `a forwarded change to P${p} is lost`)
    }
    if (!this.queued(p)) return
    if (around.mayWrite(p)) {
      this.drop(1 << (QUEUES_SHIFT + p))
      this.make(p)
      if (this.author >= 0) this.set(ANSWER)
      around.done(true, `P${p} makes a forwarded change`)
    } else if (!around.waits(p)) {
      this.drop(1 << (QUEUES_SHIFT + p))
      around.done(true, `P${p} sends a forwarded change away`)
    }
  }

  private make(p: number): void {
    const { around } = this
    if (around.knows(p)) {
      if (!this.rules.requestId) around.bad(`a forwarded change is applied twice: P${p} knows it`)
      return
    }
    if (this.is(REFUSED)) around.bad('a forwarded change is refused, and made')
    around.append(p)
  }

  private settle(): void {
    this.t[this.base]! &= ~(AUTHOR | ANSWER)
  }
}
