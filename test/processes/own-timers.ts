import { createHook } from 'node:async_hooks'

/** The frames that Node has between the call of `setTimeout()` and the hook. */
const OF_NODE = /\(?node:(?:internal\/)?(?:async_hooks|timers)/
const SOURCE = /[/\\]src[/\\](\S+?)\.[jt]s/
/** The sources that start limits for others. */
const LIMITS = /[/\\]src[/\\](?:wire[/\\]pending|base[/\\]after-reading)\.[jt]s/

/** The active timers that the sources of this project have started since: those of Node, of packages and of tests do not count. */
export class OwnTimers implements Disposable {
  /** Where each was started, by the number of its resource. */
  readonly #active = new Map<number, string>()
  readonly #hook = createHook({
    init: (id, type) => {
      const place = type === 'Timeout' ? starterOf(new Error().stack ?? '') : null
      if (place !== null) this.#active.set(id, place)
    },
    destroy: id => void this.#active.delete(id),
  }).enable()

  /** The files that started them, and the functions, sorted. Node reports the end of a timer in a later turn of the event loop. */
  get places(): string[] {
    return [...this.#active.values()].sort()
  }

  [Symbol.dispose](): void {
    this.#hook.disable()
  }
}

/** Returns the place that called Node; null if it is not in a source. */
function starterOf(stack: string): string | null {
  const frames = stack.split('\n')
  const called = frames.slice(frames.findLastIndex(frame => OF_NODE.test(frame)) + 1)
  const caller = called.find(frame => !LIMITS.test(frame)) ?? ''
  const file = SOURCE.exec(caller)?.[1]
  if (file === undefined) return null
  const within = /at (?:async )?(?:new )?([\w.#<>$]+) \(/.exec(caller)?.[1]
  return `${file}.ts${within === undefined ? '' : ` ${within}`}`
}
