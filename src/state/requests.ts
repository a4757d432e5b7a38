import { type Checks, checkOptions, flag, unchecked } from '../base/check-option.js'
import { FdbError } from '../errors.js'

export interface KnownRequest {
  sequence: number
  /** The sum over the change's entries and operations ({@link SectionStore.printOf}); 0: unknown, from an older release's snapshot. */
  print: number
}

/** The request ids whose changes are in the log. The oldest is forgotten by count alone, so that all readers remember the same ones. */
export class RequestMemory {
  readonly #most: number
  readonly #known = new Map<string, KnownRequest>()
  /** In order of arrival; a ring once it is full (a `Map` finds its oldest key slowly among deleted ones). */
  readonly #ring: string[] = []
  #oldest = 0

  constructor(most: number) {
    this.#most = most
  }

  get(id: string): KnownRequest | undefined {
    return this.#known.get(id)
  }

  add(id: string, sequence: number, print: number): void {
    if (this.#known.has(id)) return
    this.#known.set(id, { sequence, print })
    if (this.#ring.length < this.#most) {
      this.#ring.push(id)
      return
    }
    this.#known.delete(this.#ring[this.#oldest]!)
    this.#ring[this.#oldest] = id
    this.#oldest = (this.#oldest + 1) % this.#most
  }

  upTo(sequence: number): { id: string; print: number }[] {
    const all: { id: string; print: number }[] = []
    for (let i = 0; i < this.#ring.length; i++) {
      const id = this.#ring[(this.#oldest + i) % this.#ring.length]!
      const known = this.#known.get(id)!
      if (known.sequence <= sequence) all.push({ id, print: known.print })
    }
    return all
  }
}

/** Compares two changes with the same id; null: one is a retry of the other. An update has several prints, for its possible results. */
export function requestRefusal(
  id: string,
  known: readonly number[],
  prints: readonly number[],
): FdbError | null {
  if (known.some(print => print === 0 || prints.includes(print) || prints.includes(0))) return null
  return new FdbError(
    'ERR_FDB_STATE_REQUEST',
    `request ${JSON.stringify(id)} belongs to another change, of another section or key or kind: this one was not made. ` +
      'Give each change an id of its own; several changes of one request are one bulk()',
    { details: { request: id } },
  )
}

/** The print of several changes; never 0. */
export function addPrint(sum: number, print: number): number {
  return (sum + print) >>> 0 || 1
}

export interface WriteOptions {
  /**
   * A client's request id: the same change tried again with the same id applies once. Another change under the same id (of another
   * section, key or kind) is refused with ERR_FDB_STATE_REQUEST; the values are not compared.
   */
  request?: string
  /**
   * Resolves when the change is on the disk (needs a `stateFile`): it then outlives a power cut too. Several at a time share one sync.
   * Where another process writes, or comes to write meanwhile, that one brings it to its disk. Rejects with ERR_FDB_FENCED, and makes no change, before `ready()`;
   * with ERR_FDB_STATE_FILE and `details.made: true` when the disk fails: the change is made, in memory, and comes to the disk when that is
   * possible. Default: as the section's schema says.
   */
  durable?: boolean
}

const WRITE_OPTIONS: Checks<WriteOptions> = { request: unchecked, durable: flag }

/** Throws ERR_FDB_OPTION for an unknown option; the request id is checked elsewhere. */
export function checkWrite(call: string, options: unknown): void {
  checkOptions(call, options as WriteOptions, WRITE_OPTIONS)
}
