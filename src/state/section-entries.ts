import { FdbError } from '../errors.js'
import type { LogCore } from './core.js'
import type { Section } from './section.js'
import { Slice } from './time-slices.js'

/** Throws ERR_FDB_STATE_VALUE, with the first error as cause, if entries of the section cannot be decoded. */
export function* checkSection(section: Section<never>): Generator<undefined, void> {
  let invalid = 0
  let first: FdbError | null = null
  for (const error of section.invalidEntries_()) {
    if (error !== null) {
      first ??= error
      invalid++
    }
    yield
  }
  if (first === null) return
  const { size } = section
  throw new FdbError(
    'ERR_FDB_STATE_VALUE',
    `${invalid} of the ${size} entries of section "${section.name}" cannot be decoded by this version. The first: ${first.message}. ` +
      'Correct `migrate` or `validate`, or call ready({ skipInvalid: true }) to serve without these entries',
    { cause: first, details: { section: section.name, invalid, entries: size, key: first.details.key } },
  )
}

/** Entries per change. */
const KEYS_PER_CHANGE = 64

/** The result of {@link writeMigrated}. */
export interface Migrated {
  readonly entries: number
  readonly changes: number
}

/** Puts the entries that `migrate` converts, while `mayGoOn` returns true. */
export async function writeMigrated(
  section: Section<never>,
  { sliceMs }: LogCore,
  mayGoOn: () => boolean,
): Promise<Migrated> {
  const slice = new Slice(sliceMs)
  let keys: string[] = []
  let entries = 0
  let changes = 0
  const put = async () => {
    await section.putMigrated_(keys)
    entries += keys.length
    changes++
    keys = []
  }
  for (const key of section.outdatedKeys_()) {
    if (key !== null) keys.push(key)
    if (slice.over) await slice.next()
    if (!mayGoOn()) return { entries, changes }
    if (keys.length >= KEYS_PER_CHANGE) await put()
  }
  if (keys.length > 0) await put()
  return { entries, changes }
}
