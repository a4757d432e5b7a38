import type inspector from 'node:inspector'
import { dirname, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { nodeInspector, thisFile } from '../base/lazy.js'

/** An active timer that the program, or a scheduler, has started. */
export interface ActiveTimer {
  /** The time between two calls of an interval; null for a scheduler. */
  readonly everyMs: number | null
  /** The function's name, as `pollQueue()`, or the beginning of its source, and its place; of a scheduler the package. */
  readonly what: string
}

/** Packages that call functions at set times. Most wait by `setTimeout()`, and start the next timer when one ends. */
const SCHEDULERS: ReadonlySet<string> = new Set(['cron', 'croner', 'node-cron', 'node-schedule'])
const MAX_SOURCE_LENGTH = 60
/** V8 looks through the whole heap, for about 13 ms a MB. */
const MOST_HEAP_BYTES = 64 * 1024 * 1024
/** The prototype of Node's timers. */
const PROTOTYPE = `(() => {
  const timer = setTimeout(() => {}, 1)
  clearTimeout(timer)
  return Object.getPrototypeOf(timer)
})()`
/** Applied to the list of all timers. */
const ACTIVE = `function () {
  const active = timer => !timer._destroyed && typeof timer._onTimeout === 'function'
  return this.filter(active).flatMap(timer => [timer._repeat, timer._onTimeout])
}`
const GROUP = 'fd-broker'

/**
 * Finds active timers that may do a job: intervals of at least `leastMs` whose function is in a file of the program, and timers of schedulers. Timers of
 * other packages, such as agents that report metrics, concern their own process only. Node has no function that lists timers, so V8's
 * inspector finds them, which stops the process for 0.1 s or more. Finds none without an inspector, or if the heap is large.
 */
export function activeTimers(leastMs: number): ActiveTimer[] {
  if (process.memoryUsage().heapUsed > MOST_HEAP_BYTES) return []
  try {
    using inspected = new Inspected()
    const timers = inspected.timers().flatMap(timer => describe(timer, leastMs))
    const byText = new Map(timers.map(timer => [timer.what, timer]))
    return [...byText.values()].sort((a, b) => (a.everyMs ?? 0) - (b.everyMs ?? 0))
  } catch {
    // This Node was built without an inspector, or has other internals: the caller only misses a hint.
    return []
  }
}

interface FoundTimer {
  /** Null for a timeout. */
  readonly everyMs: number | null
  readonly name: string
  readonly source: string
  /** The file of the function; of Node itself: `node:…`. */
  readonly file: string
  readonly line: number
}

function describe({ everyMs, name, source, file, line }: FoundTimer, leastMs: number): ActiveTimer[] {
  const [, scheduler] = /.*[\\/]node_modules[\\/]((?:@[^\\/]+[\\/])?[^\\/]+)/.exec(file) ?? []
  if (scheduler !== undefined) return SCHEDULERS.has(scheduler) ? [{ everyMs: null, what: scheduler }] : []
  if (everyMs === null || everyMs < leastMs || file === '' || file.startsWith('node:') || isOurs(file))
    return []
  const place = relative(process.cwd(), file)
  const text = name !== '' ? `${name}()` : shortened(source)
  return [{ everyMs, what: `${text} at ${place.startsWith('..') ? file : place}:${line}` }]
}

/** Whether this library has the file for itself: in an application's bundle it has not. */
function isOurs(file: string): boolean {
  const folder = `${dirname(thisFile())}/`
  return file.startsWith(folder) && !process.argv[1]?.startsWith(folder)
}

function shortened(source: string): string {
  const text = source.replace(/\s+/g, ' ')
  return text.length > MAX_SOURCE_LENGTH ? `${text.slice(0, MAX_SOURCE_LENGTH)}…` : text
}

type RemoteObject = inspector.Runtime.RemoteObject

/** A session of V8's inspector in this thread, which answers before a call returns. */
class Inspected implements Disposable {
  readonly #session: inspector.Session
  /** The scripts by their ids. */
  readonly #urls = new Map<string, string>()

  constructor() {
    const { Session } = nodeInspector()
    this.#session = new Session()
    this.#session.connect()
    this.#session.on('Debugger.scriptParsed', ({ params }) => this.#urls.set(params.scriptId, params.url))
  }

  timers(): FoundTimer[] {
    const { result: prototype } = this.#ask<{ result: RemoteObject }>('Runtime.evaluate', {
      expression: PROTOTYPE,
    })
    const { objects } = this.#ask<{ objects: RemoteObject }>('Runtime.queryObjects', {
      prototypeObjectId: prototype.objectId,
      objectGroup: GROUP,
    })
    const { result: active } = this.#ask<{ result: RemoteObject }>('Runtime.callFunctionOn', {
      objectId: objects.objectId,
      objectGroup: GROUP,
      functionDeclaration: ACTIVE,
    })
    // Reports all scripts.
    this.#ask('Debugger.enable', {})
    this.#ask('Debugger.disable', {})
    const values = this.#properties(active)
      .result.filter(({ name }) => /^\d+$/.test(name))
      .map(({ value }) => value!)
    const found: FoundTimer[] = []
    for (let at = 0; at < values.length; at += 2) {
      const every: unknown = values[at]!.value
      const callback = this.#function(values[at + 1]!)
      found.push({ everyMs: typeof every === 'number' ? every : null, ...callback })
    }
    return found
  }

  [Symbol.dispose](): void {
    this.#session.post('Runtime.releaseObjectGroup', { objectGroup: GROUP })
    this.#session.disconnect()
  }

  /** Describes a function, or the one that a bound function calls. */
  #function(callback: RemoteObject): Omit<FoundTimer, 'everyMs'> {
    const { result, internalProperties = [] } = this.#properties(callback)
    const internal = (wanted: string) => internalProperties.find(({ name }) => name === wanted)?.value
    const target = internal('[[TargetFunction]]')
    if (target !== undefined) return this.#function(target)
    const place = internal('[[FunctionLocation]]')?.value as
      | { readonly scriptId: string; readonly lineNumber: number }
      | undefined
    const url = this.#urls.get(place?.scriptId ?? '') ?? ''
    return {
      name: String(result.find(({ name }) => name === 'name')?.value?.value ?? ''),
      source: callback.description ?? '',
      file: url.startsWith('file:') ? fileURLToPath(url) : url,
      line: (place?.lineNumber ?? 0) + 1,
    }
  }

  #properties({ objectId }: RemoteObject): inspector.Runtime.GetPropertiesReturnType {
    return this.#ask('Runtime.getProperties', { objectId, ownProperties: true })
  }

  #ask<T>(method: string, params: object): T {
    let answer: T | undefined
    let failure: Error | null = null
    this.#session.post(method, params, (error: Error | null, result?: object) => {
      failure = error
      answer = result as T
    })
    if (answer === undefined) throw failure ?? new Error(`${method} has no answer`)
    return answer
  }
}
