import type { EventEmitter } from 'node:events'

/** Called with the arguments of an event before the listeners. If it returns false, the listeners do not get the event. `this` is the emitter. */
type Observer = (...args: never[]) => unknown
/** By event. Emitters that are observed alike share one. */
export type Observers = ReadonlyMap<string, Observer>
type ObserversByEvent = Readonly<Record<string, Observer>>

type Emit = (this: EventEmitter, ...args: unknown[]) => boolean

const NONE: Observers = new Map()
/** An event without listeners, with which {@link replay} calls the observers of another event. */
const REPLAY = Symbol('fd-broker.replay')

/**
 * Observes events of an emitter of Node or of the program without a listener: the emitter gets a property `emit` of its own, which is not
 * enumerable. The observers of `after` are called when the listeners have got the event. Returns a function that ends the observation.
 *
 * A listener would change the emitter. Node and libraries decide by listeners: with one for `request` an HTTP/2 server answers requests by
 * Node's compatibility API, and with one for `error` no error ends the process. A program sees a listener in `listenerCount()`, in the
 * warning about leaks (11 listeners) and in `newListener`, and removes it with `removeAllListeners()`. The page
 * `.github/WATCHING.md` lists all traces that fd-broker leaves on objects that are not its own.
 */
export function observe(
  emitter: EventEmitter,
  observers: Observers | ObserversByEvent,
  after: Observers | ObserversByEvent = NONE,
): () => void {
  const [first, last] = [observersOf(observers), observersOf(after)]
  const before = ownEmit(emitter)
  let observing = true
  const emit: Emit = function (...args) {
    if (observing) {
      const replays = args[0] === REPLAY
      const observer = first.get((replays ? args[1] : args[0]) as string)
      if (observer !== undefined) {
        const passes = Reflect.apply(observer, this, args.slice(replays ? 2 : 1)) !== false
        // Other observers still get the event.
        if (!passes && !replays) return Reflect.apply(before ?? inheritedEmit(this), this, [REPLAY, ...args])
      }
    }
    const passed = before ?? inheritedEmit(this)
    const finish = observing ? last.get(args[0] as string) : undefined
    if (finish === undefined) return Reflect.apply(passed, this, args)
    try {
      return Reflect.apply(passed, this, args)
    } finally {
      Reflect.apply(finish, this, args.slice(1))
    }
  }
  setMethod(emitter, 'emit', emit)
  return () => {
    observing = false
    // If another library has wrapped `emit` since, this function stays in its chain, and passes events on.
    if (ownEmit(emitter) !== emit) return
    if (before === undefined) Reflect.deleteProperty(emitter, 'emit')
    else setMethod(emitter, 'emit', before)
  }
}

export function observersOf(observers: Observers | ObserversByEvent): Observers {
  return observers instanceof Map ? observers : new Map(Object.entries(observers))
}

/** Calls the observers of an event, not its listeners. */
export function replay(emitter: EventEmitter, event: string, ...args: readonly unknown[]): void {
  emitter.emit(REPLAY, event, ...args)
}

function ownEmit(emitter: EventEmitter): Emit | undefined {
  return Object.hasOwn(emitter, 'emit') ? (emitter.emit as Emit) : undefined
}

/** Looked up at each event, because tracing libraries replace `emit` of the prototypes at any time. */
function inheritedEmit(emitter: EventEmitter): Emit {
  return (Object.getPrototypeOf(emitter) as EventEmitter).emit as Emit
}

/** Gives the object a method of its own in place of the present one, with the same name and length, not enumerable. */
export function setMethod<K extends PropertyKey>(
  object: Readonly<Record<K, (...args: never[]) => unknown>>,
  key: K,
  value: (...args: never[]) => unknown,
): void {
  const { name, length } = object[key]
  Object.defineProperties(value, {
    name: { configurable: true, value: name },
    length: { configurable: true, value: length },
  })
  Object.defineProperty(object, key, { configurable: true, writable: true, enumerable: false, value })
}
