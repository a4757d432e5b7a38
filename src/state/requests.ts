import { checkOptions } from '../checks/options.js'
import { absent, map, type ShapeOf } from '../checks/shape.js'
import { boolean, unchecked } from '../checks/values.js'
import { FdbError } from '../errors.js'

export interface KnownRequest {
  sequence: number
  /** The change's fingerprint: the sum over its entries and operations ({@link SectionStore.printOf}). 0 if unknown, as in a snapshot of an older release. */
  print: number
}

/** The request ids whose changes are in the log. The oldest id is dropped when there are more ids than the limit, and for no other reason, so that all readers remember the same ids. */
export class RequestMemory {
  readonly #most: number
  readonly #known = new Map<string, KnownRequest>()
  /** The ids in insertion order, as a ring. (A `Map` with many deleted keys finds its oldest key slowly.) */
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

/** Returns null if two changes with the same request id may be the same change, otherwise an error. An update has one fingerprint for each kind of change that it may turn out to be. */
export function requestIdRefusal(
  id: string,
  known: readonly number[],
  prints: readonly number[],
): FdbError | null {
  if (known.some(print => print === 0 || prints.includes(print) || prints.includes(0))) return null
  return new FdbError(
    'ERR_FDB_STATE_REQUEST',
    `request ${JSON.stringify(id)} was used for a change of another section, key or kind: this change was not made. ` +
      'Give each change its own request id; to make several changes for one request, use bulk()',
    { details: { request: id } },
  )
}

/** Adds the fingerprint of a change to the sum of fingerprints. The result is never 0, which means unknown. */
export function addPrint(sum: number, print: number): number {
  return (sum + print) >>> 0 || 1
}

export interface WriteOptions {
  /**
   * A client's request id: a retry of the same change with the same id has no further effect. A different change with the same id (of another
   * section, key or kind) is refused with ERR_FDB_STATE_REQUEST; the values are not compared.
   */
  request?: string | undefined
  /**
   * Resolves when the change is on disk, so that it survives a power cut; needs a `stateFile`. Concurrent changes share one sync. If another process
   * writes, or starts to write before the change is on disk, that process writes the change to its disk. Rejects with ERR_FDB_FENCED before `ready()`, without making
   * the change. Rejects with ERR_FDB_STATE_FILE and `details.made: true` if the disk fails: the change was made in memory, and is written when the
   * disk works again. Default: the `durable` setting of the section's schema.
   */
  durable?: boolean | undefined
}

const WRITE_OPTIONS = map({
  request: absent(unchecked<string>()),
  durable: absent(boolean),
} satisfies ShapeOf<WriteOptions>)

/** Throws ERR_FDB_OPTION for an unknown option; the request id is checked elsewhere. */
export function checkWrite(call: string, options: unknown): void {
  checkOptions(call, options, WRITE_OPTIONS)
}

/** Calls `make`, whose exceptions reject. */
export function rejecting<R>(make: () => Promise<R>): Promise<R> {
  try {
    return make()
  } catch (error) {
    return Promise.reject(error)
  }
}
