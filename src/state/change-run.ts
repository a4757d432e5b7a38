import { CHANGE_FIELDS } from '../kernel/index.js'
import type { ScannedKeys } from './key-map.js'
import { addPrint } from './requests.js'

/** Positions in the result of `scanRuns()`: the schema version; start and end of key and value; the fingerprint. */
const VERSION = 2
const ENTRY = 5
export const PRINT = 9

/** Consecutive puts of one section in a record. */
export interface ChangeRun extends ScannedKeys {
  /** The number of the first change in {@link fields}. */
  readonly first: number
  /** Start and end of each encoded change of the record in the buffer. */
  readonly ranges: Uint32Array
  /** The number of the first change in {@link ranges}. */
  readonly firstRange: number
  readonly count: number
}

/** Returns the sum of the fingerprints, see {@link SectionStore.printOf}. */
export function printOfRun({ fields, first, count }: ChangeRun): number {
  let print = 0
  for (let i = first; i < first + count; i++) print = addPrint(print, fields[CHANGE_FIELDS * i + PRINT]!)
  return print
}

/** Adds the schema versions of `count` changes from number `from` on to `versions`. */
export function addVersions(versions: Set<number>, run: ChangeRun, from: number, count: number): void {
  const { fields, first } = run
  let last = -1
  for (let i = first + from; i < first + from + count; i++) {
    const version = fields[CHANGE_FIELDS * i + VERSION]!
    if (version !== last) versions.add((last = version))
  }
}

/** Returns the offsets of key and value (start, end, start, end) of the changes from number `from` on, one every {@link CHANGE_FIELDS} numbers. */
export function entriesOfRun({ fields, first }: ChangeRun, from: number): Uint32Array {
  return fields.subarray(CHANGE_FIELDS * (first + from) + ENTRY)
}
