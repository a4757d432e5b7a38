import { GrowingList } from '../base/large-collections.js'
import { FdbError } from '../errors.js'
import type { LogCore } from './core.js'
import { closedError } from './entries.js'
import { History } from './history.js'
import type { Location } from './locations.js'
import type { SectionStore } from './section-store.js'
import type { Segment } from './segment.js'
import { Store } from './store.js'
import { inSteps } from './time-slices.js'

interface SectionDifference {
  readonly section: SectionStore
  /** The section in the new log, or null if that log does not have it. */
  readonly now: SectionStore | null
  readonly changes: GrowingList<{
    readonly op: 'put' | 'delete'
    readonly key: string
    readonly before: Location | null
  }>
}

/** Reads another whole log, replaces the current one in one step, and notifies listeners of the differences. Takes ownership of the segments. Has no effect if it throws. */
export function rebuild(
  core: LogCore,
  segments: readonly Segment[],
  mayWrite: boolean,
): Generator<unknown, void> {
  if (!core.closing.aborted && !mayWrite) return rebuildLog(core, segments)
  for (const segment of segments) segment.close()
  throw core.closing.aborted ? closedError() : writingError()
}

function writingError(): FdbError {
  return new FdbError('ERR_FDB_STATE_ORDER', 'a log to which this process may write cannot be replaced')
}

function* rebuildLog(core: LogCore, segments: readonly Segment[]): Generator<unknown, void> {
  const { history, deferred, limits, store } = core
  const previous = history.held
  let replaced = false
  try {
    yield* deferred.steps()
    const after = new Store(limits, deferred, () => {})
    const fresh = new History(after, limits, history.ordinals)
    for (const segment of segments) {
      const refusal = fresh.orderError(segment)
      if (refusal) throw refusal
      fresh.hold(segment)
    }
    yield* fresh.readNew()
    yield* deferred.steps()
    const different: SectionDifference[] = []
    for (const name of new Set([...store.sections.keys(), ...after.sections.keys()]))
      different.push(yield* compare(store, after, name))
    replaced = true
    replace(core, after, fresh, different)
    // The previous segments stay open until all listeners are notified, because listeners may read previous values.
    for (const { section, changes } of different)
      yield* inSteps(changes, ({ op, key, before }) => {
        const after = op === 'put' ? store.entries.locate(section, section.slots.get(key)) : null
        section.notify(op, key, 'replay', before, after)
      })
  } finally {
    if (replaced) for (const held of previous) history.release(held)
    else for (const segment of segments) segment.close()
  }
}

function* compare(before: Store, after: Store, name: string): Generator<unknown, SectionDifference> {
  const section = before.sectionNamed(name)
  const now = after.sections.get(name) ?? null
  const changes: SectionDifference['changes'] = new GrowingList()
  yield* inSteps(now?.slots.entries() ?? [], ([key, slot]) => {
    const old = section.slots.get(key)
    if (old === undefined) {
      changes.push({ op: 'put', key, before: null })
      return
    }
    const was = before.entries.read(section, key, old)
    const is = after.entries.read(now!, key, slot)
    if (was.version !== is.version || !was.value.equals(is.value))
      changes.push({ op: 'put', key, before: before.entries.locate(section, old) })
  })
  yield* inSteps(section.slots.entries(), ([key, slot]) => {
    if (!now?.slots.has(key))
      changes.push({ op: 'delete', key, before: before.entries.locate(section, slot) })
  })
  return { section, now, changes }
}

/** Replaces the whole state in one step, so that a reader sees either the old or the new state. */
function replace(
  { history, store }: LogCore,
  after: Store,
  fresh: History,
  different: readonly SectionDifference[],
) {
  history.takeOver(fresh, after.open)
  for (const { section, now } of different) section.takeOver(now)
  store.takeOver(after)
  for (const { section } of different) for (const reset of section.resets) reset()
}
