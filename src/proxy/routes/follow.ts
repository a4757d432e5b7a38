import { setImmediate as nextTurn } from 'node:timers/promises'
import { GrowingList } from '../../base/large-collections.js'
import { runInSlices } from '../../index.js'
import { originOf } from '../entries/overlay.js'
import { parseRouteKey, type RouteId, routeKey } from './path-tree.js'
import { type RouteMessage, servedTarget } from './section.js'
import type { RouteTable } from './table.js'
import { type RouteTarget, targetKey } from './target.js'

/** The routes section of the state, or a view of it. */
export interface RouteSource {
  /** Reading the size appends this turn's changes to the state, and notifies the listeners. */
  readonly size: number
  keys(): Iterable<string>
  get(key: string): RouteMessage | undefined
  onChange(listener: (change: { op: 'put' | 'delete' | 'clear'; key: string }) => void): () => void
}

/** The compiled targets of removed routes are forgotten only if there are more than this number. */
const SPARE_TARGETS = 1_024
/** Changes of one turn that are applied at once: a next version reads the last changes of the previous one in the turn in which it begins to accept. */
const AT_ONCE = 256

export interface FollowOptions<T> {
  /** Creates the table's value for a target. Called once for equal upstream targets. */
  compile: (target: RouteTarget) => T
  /** Called for an entry that cannot be read or compiled. The entry's route is not served. */
  onUnreadable?: (key: string, error: unknown) => void
}

/**
 * Applies the changes of a section to a table: a few at once, more in slices, so that even 100,000 changes do not block the event loop. See {@link caughtUp}. The caller adds the
 * existing entries by {@link put} or {@link refresh}.
 */
export class RouteFollower<T extends NonNullable<unknown>> {
  readonly #section: RouteSource
  readonly #table: RouteTable<T>
  readonly #options: FollowOptions<T>
  readonly #compiled = new Map<string, T>()
  /** Routes of a file that one after the other have the same answer share its value. */
  #last: { target: RouteTarget; value: T } | null = null
  readonly #unsubscribe: () => void
  /** All keys of the section, if they must be applied again. */
  #scan: Iterable<string> | null = null
  /** Changed keys; null means that the section was cleared. */
  #queue = new GrowingList<string | null>()
  /** Numbers of the changes that were noted, and that were applied. */
  #noted = 0
  #applied = 0
  #running: Promise<void> | null = null
  #atOnce = AT_ONCE
  #stopped = false

  constructor(section: RouteSource, table: RouteTable<T>, options: FollowOptions<T>) {
    this.#section = section
    this.#table = table
    this.#options = options
    this.#unsubscribe = section.onChange(({ op, key }) => {
      // Routes of the file are planned, and change with the whole file.
      if (op !== 'clear' && originOf(key) !== 'file' && this.#running === null && this.#mayApplyNow()) {
        this.#apply(key)
        return
      }
      this.#queue.push(op === 'clear' ? null : key)
      this.#noted++
      this.#running ??= this.#run()
    })
  }

  /** Applies an entry that the caller has read. */
  put(id: RouteId, target: RouteTarget): void {
    try {
      this.#table.put(id, this.#compile(target))
    } catch (error) {
      this.#options.onUnreadable?.(routeKey(id), error)
      this.#table.delete(id)
    }
  }

  /** Resolves when the table has all changes made before this call, or after {@link stop}. */
  async caughtUp(): Promise<void> {
    void this.#section.size
    const goal = this.#noted
    while (this.#running && this.#applied < goal) await nextTurn()
  }

  /** Stops following. The table keeps its contents. */
  stop(): void {
    this.#stopped = true
    this.#unsubscribe()
  }

  /** Compiles all routes again. */
  refresh(): void {
    if (this.#stopped) return
    this.#compiled.clear()
    this.#scan = this.#section.keys()
    this.#noted++
    this.#running ??= this.#run()
  }

  /** Counts the changes of one turn. */
  #mayApplyNow(): boolean {
    if (this.#atOnce === AT_ONCE) setImmediate(() => (this.#atOnce = AT_ONCE))
    return this.#atOnce-- > 0
  }

  async #run(): Promise<void> {
    await nextTurn()
    await runInSlices(this.#steps(), { sliceMs: 3 })
  }

  *#steps(): Generator<undefined> {
    for (const key of this.#pending()) {
      if (this.#stopped) break
      if (key === null) {
        this.#table.clear()
        // A view has further sections, which were not cleared.
        this.#scan = this.#section.keys()
      } else this.#apply(key)
      yield
    }
    // Resets #running in the step that found nothing pending, so that a later change starts a new run.
    this.#running = null
  }

  /** Yields the keys to apply, including those that change during the iteration. */
  *#pending(): Generator<string | null> {
    for (;;) {
      const scan = this.#scan
      this.#scan = null
      if (scan) {
        for (const key of scan) {
          if (this.#scan) break
          yield key
        }
        continue
      }
      if (this.#queue.length === 0) return
      const queue = this.#queue
      const noted = this.#noted
      this.#queue = new GrowingList()
      yield* queue
      this.#applied = noted
    }
  }

  /** Reads the entry again, because changes may arrive twice, or out of order. */
  #apply(key: string): void {
    const id = parseRouteKey(key)
    if (id === null) return
    try {
      const stored = this.#section.get(key)
      const target = stored && servedTarget(stored)
      if (target) {
        this.#table.put(id, this.#compile(target))
        return
      }
    } catch (error) {
      this.#options.onUnreadable?.(key, error)
    }
    this.#table.delete(id)
  }

  #compile(target: RouteTarget): T {
    if (target.kind !== 'upstream') {
      if (this.#last?.target !== target) this.#last = { target, value: this.#options.compile(target) }
      return this.#last.value
    }
    const name = targetKey(target)
    let compiled = this.#compiled.get(name)
    if (compiled === undefined) {
      this.#forgetUnused()
      this.#compiled.set(name, (compiled = this.#options.compile(target)))
    }
    return compiled
  }

  /** Compiles all routes again when more than half of the compiled targets belong to removed routes. */
  #forgetUnused(): void {
    const { size, shadowed } = this.#table
    if (this.#compiled.size > 2 * (size + shadowed) + SPARE_TARGETS) this.refresh()
  }
}
