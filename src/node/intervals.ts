import type { Session } from 'node:inspector'

/** An interval of the program that is active. */
export interface ActiveInterval {
  readonly everyMs: number
  /** `pollQueue at file:///srv/shop/server.mjs:12:1`: the function, and its place in the source. */
  readonly what: string
}

/** A heap of this size is not searched: it would take long. */
const MOST_HEAP = 256 * 1024 * 1024

const PROTOTYPE =
  '(timer => (clearTimeout(timer), Object.getPrototypeOf(timer)))(setTimeout(() => undefined, 1))'
const ACTIVE = `function (least) { return this.filter(timer => timer._repeat >= least && !timer._destroyed) }`

interface Value {
  readonly value?: unknown
  readonly objectId?: string
  readonly description?: string
}

interface Property {
  readonly name: string
  readonly value?: Value
}

/**
 * Finds the active intervals of `leastMs` or more in the heap of this process, through V8's inspector: no public function of Node lists timers. Those
 * of Node itself are left out. For development: it stops the process for some 100 ms. Empty where it cannot be known.
 */
export function activeIntervals(leastMs: number): ActiveInterval[] {
  if (process.memoryUsage().heapUsed > MOST_HEAP) return []
  let session: Session | undefined
  try {
    session = new (process.getBuiltinModule('node:inspector').Session)()
    session.connect()
    return new IntervalSearch(session).active(leastMs)
  } catch {
    // This Node was built without the inspector, or the program is in no state to be asked.
    return []
  } finally {
    session?.disconnect()
  }
}

class IntervalSearch {
  readonly #session: Session
  readonly #urls = new Map<string, string>()

  constructor(session: Session) {
    this.#session = session
  }

  active(leastMs: number): ActiveInterval[] {
    this.#session.on('Debugger.scriptParsed', ({ params }) => this.#urls.set(params.scriptId, params.url))
    this.#post('Debugger.enable')
    const { result: prototype } = this.#post('Runtime.evaluate', { expression: PROTOTYPE }) as {
      result: Value
    }
    const { objects } = this.#post('Runtime.queryObjects', { prototypeObjectId: prototype.objectId }) as {
      objects: Value
    }
    const { result: found } = this.#post('Runtime.callFunctionOn', {
      objectId: objects.objectId,
      functionDeclaration: ACTIVE,
      arguments: [{ value: leastMs }],
    }) as { result: Value }
    return this.#ownProperties(found)
      .filter(({ name, value }) => /^\d+$/.test(name) && value?.objectId !== undefined)
      .flatMap(({ value }) => this.#intervalOf(value!))
  }

  #intervalOf(timer: Value): ActiveInterval[] {
    const properties = this.#ownProperties(timer)
    const propertyOf = (wanted: string) => properties.find(({ name }) => name === wanted)?.value
    const callback = propertyOf('_onTimeout')
    const everyMs = propertyOf('_repeat')?.value
    if (callback?.objectId === undefined || typeof everyMs !== 'number') return []
    const { name, place } = this.#functionOf(callback)
    if (place.startsWith('node:')) return []
    return [{ everyMs, what: `${name === '' ? 'a function' : `${name}()`} at ${place}` }]
  }

  #functionOf(callback: Value): { readonly name: string; readonly place: string } {
    const { result, internalProperties = [] } = this.#properties(callback)
    const internal = (wanted: string) => internalProperties.find(({ name }) => name === wanted)?.value
    const bound = internal('[[TargetFunction]]')
    if (bound !== undefined) return this.#functionOf(bound)
    const at = internal('[[FunctionLocation]]')?.value as
      | { readonly scriptId: string; readonly lineNumber: number; readonly columnNumber: number }
      | undefined
    const name = result.find(property => property.name === 'name')?.value?.value
    const url = at === undefined ? undefined : this.#urls.get(at.scriptId)
    const place =
      at === undefined || url === undefined
        ? 'an unknown place'
        : `${url}:${at.lineNumber + 1}:${at.columnNumber + 1}`
    return { name: typeof name === 'string' ? name : '', place }
  }

  #ownProperties(of: Value): readonly Property[] {
    return this.#properties(of).result
  }

  #properties(of: Value): {
    readonly result: readonly Property[]
    readonly internalProperties?: readonly Property[]
  } {
    return this.#post('Runtime.getProperties', { objectId: of.objectId, ownProperties: true }) as never
  }

  /** Answers in the same turn: the session is one of this thread. */
  #post(method: string, parameters: object = {}): unknown {
    let answer: unknown
    let failed: Error | null = new Error(`${method} was not answered`)
    this.#session.post(method, parameters, (error, result) => {
      failed = error
      answer = result
    })
    if (failed !== null) throw failed
    return answer
  }
}
