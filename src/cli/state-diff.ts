import { FdbError } from '../errors.js'
import type { RawEntry } from '../state/overview.js'
import type { StoredSchema } from '../state/records.js'
import { type LineOptions, LineWriter, lineValue } from './state-lines.js'
import { type OpenState, openDiffSide, type SourceFlags } from './state-source.js'

interface DiffFlags extends SourceFlags {
  secrets: boolean
}

/** Prints each entry whose value bytes differ, sorted by section and key. */
export async function diffStates(from: string, to: string, { secrets, ...flags }: DiffFlags): Promise<void> {
  if (from === '-' && to === '-') {
    throw new FdbError('ERR_FDB_STATE_SOURCE', 'both are standard input; give a file for one of them')
  }
  using before = await openDiffSide(from, flags)
  using after = await openDiffSide(to, flags)
  const counts = { added: 0, removed: 0, changed: 0 }
  const out = new LineWriter()
  for (const { name, old, now } of sectionsOf(before, after)) {
    for (const difference of differences(before, after, name)) {
      counts[difference.change]++
      const options: LineOptions = { secrets, exact: false }
      const side = (schema: StoredSchema | undefined, entry: RawEntry | undefined) =>
        schema && entry ? { version: entry.version, ...lineValue(schema, entry.value, options) } : undefined
      const { key, change } = difference
      const line = {
        section: name,
        key,
        change,
        from: side(old, difference.from),
        to: side(now, difference.to),
      }
      await out.write(line)
    }
  }
  await out.flush()
  const { added, removed, changed } = counts
  const left = before.redacted + after.redacted
  const note = left > 0 ? ` (${left} secret values are not in them, and count as missing)` : ''
  if (added + removed + changed === 0) return
  throw new FdbError(
    'ERR_FDB_STATE_DIFFERENT',
    `${added + removed + changed} entries differ: ${added} added, ${removed} removed, ${changed} changed${note}`,
  )
}

function sectionsOf(before: OpenState, after: OpenState) {
  const [old, now] = [before, after].map(
    ({ log }) => new Map(log.schemas().map(schema => [schema.name, schema])),
  ) as [Map<string, StoredSchema>, Map<string, StoredSchema>]
  const digests = [before, after].map(({ log }) => new Map(log.digests().map(one => [one.name, one.digest])))
  const names = [...new Set([...old.keys(), ...now.keys()])].sort()
  return names
    .filter(name => digests[0]?.get(name) !== digests[1]?.get(name))
    .map(name => {
      // A section that is secret on one side is secret on both.
      const secret = (old.get(name)?.secret ?? false) || (now.get(name)?.secret ?? false)
      const marked = (schema: StoredSchema | undefined) => schema && { ...schema, secret }
      return { name, old: marked(old.get(name)), now: marked(now.get(name)) }
    })
}

interface Difference {
  key: string
  change: 'added' | 'removed' | 'changed'
  from: RawEntry | undefined
  to: RawEntry | undefined
}

function* differences(before: OpenState, after: OpenState, name: string): Generator<Difference> {
  const old = before.log.rawSection(name)
  const now = after.log.rawSection(name)
  const keys = [...new Set([...old.keys(), ...now.keys()])].sort()
  for (const key of keys) {
    const from = old.get(key)
    const to = now.get(key)
    if (from && to && Buffer.compare(from.value, to.value) === 0) continue
    yield { key, change: from ? (to ? 'changed' : 'removed') : 'added', from, to }
  }
}
