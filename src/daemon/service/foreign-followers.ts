import type { Epoch } from '../../handoff/messages.js'
import type { Caller } from '../../holder/admission.js'
import type { SegmentShelf } from '../../holder/segment-shelf.js'
import { SegmentSupply } from '../../holder/segment-supply.js'
import { SegmentCopies } from './segment-copies.js'

/** The copies are brought up to date so often, where no member tells that it has appended. */
const LOOK_MS = 250

/** The processes of one other user that follow a service: they get copies of its segments. */
export class ForeignFollowers {
  readonly #copies: SegmentCopies
  readonly #supply: SegmentSupply
  readonly #drop: (caller: Caller) => void
  /** Those that wait for their first segments, with the highest epoch that each has. */
  readonly #new = new Map<Caller, Epoch>()
  readonly #all = new Set<Caller>()
  readonly #timer: NodeJS.Timeout
  #running = false
  #again = false
  #closed = false

  /** `drop`: it cannot be supplied now; it connects again, and asks again. */
  constructor(shelf: SegmentShelf, drop: (caller: Caller) => void) {
    this.#copies = new SegmentCopies(shelf)
    this.#supply = new SegmentSupply(this.#copies, drop)
    this.#drop = drop
    this.#timer = setInterval(() => this.look(), LOOK_MS).unref()
  }

  get size(): number {
    return this.#all.size
  }

  add(caller: Caller, top: Epoch): void {
    this.#all.add(caller)
    this.#new.set(caller, top)
    this.look()
  }

  remove(caller: Caller): void {
    this.#all.delete(caller)
    this.#new.delete(caller)
    this.#supply.forget(caller)
  }

  /** Something was appended, or a segment was made. */
  look(): void {
    this.#again = true
    if (!this.#running) void this.#run()
  }

  close(): void {
    this.#closed = true
    clearInterval(this.#timer)
    this.#copies.close()
  }

  async #run(): Promise<void> {
    this.#running = true
    try {
      while (this.#again && !this.#closed) {
        this.#again = false
        await this.#refresh()
      }
    } catch {
      // No memory or no descriptor is left, or one of them keeps a copy from being sealed.
      this.#copies.close()
      for (const caller of [...this.#all]) this.#drop(caller)
    } finally {
      this.#running = false
    }
  }

  async #refresh(): Promise<void> {
    const copied = await this.#copies.refresh()
    if (this.#closed) return
    this.#supply.share()
    for (const [caller, top] of [...this.#new]) {
      this.#new.delete(caller)
      this.#supply.add(caller, top)
    }
    if (copied) for (const { link } of this.#all) link.tell({ appended: {} })
  }
}
