import { CHANGE_FIELDS } from '../kernel/index.js'
import type { ScannedKeys } from './key-map.js'
import { addPrint } from './requests.js'

/** Positions in the result of `scanRuns()`: start and end of key and value; the fingerprint. */
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

/** Returns the offsets of key and value (start, end, start, end) of the changes from number `from` on, one every {@link CHANGE_FIELDS} numbers. */
export function entriesOfRun({ fields, first }: ChangeRun, from: number): Uint32Array {
  return fields.subarray(CHANGE_FIELDS * (first + from) + ENTRY)
}
