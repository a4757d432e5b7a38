interface ActiveHandle {
  /** Node sets it for standard output and error, not for standard input, which keeps a process alive. */
  readonly _isStdio?: true
  readonly isTTY?: boolean
}

/**
 * Returns the resources that keep the event loop of this process alive, by Node's names. The standard output and error, which Node lists
 * when the program has used them, keep no process alive.
 */
export function activeResources(): Record<string, number> {
  const resources: Record<string, number> = {}
  for (const type of process.getActiveResourcesInfo()) resources[type] = (resources[type] ?? 0) + 1
  for (const { isTTY } of activeOutputs()) {
    const type = isTTY ? 'TTYWrap' : 'PipeWrap'
    const rest = (resources[type] ?? 0) - 1
    if (rest > 0) resources[type] = rest
    else delete resources[type]
  }
  return resources
}

/** Returns the streams of standard output and error that are open. A read of `process.stdout` would open it. */
function activeOutputs(): ActiveHandle[] {
  const { _getActiveHandles: list } = process as { _getActiveHandles?(): ActiveHandle[] }
  return list?.call(process).filter(({ _isStdio }) => _isStdio) ?? []
}

/** An active `setInterval()` of the program. */
export interface ActiveInterval {
  readonly everyMs: number
  /** The function's name, as `pollQueue()`, or the beginning of its source. */
  readonly what: string
}

/** A timer of Node. All active timers of one duration, and one list head that is not a timer, form a ring. */
interface RingTimer {
  readonly _idlePrev?: RingTimer | null
  readonly _repeat?: number | null
  readonly _onTimeout?: unknown
}

/** The name of the callback that Node's HTTP server uses: `setInterval(checkConnections.bind(server))`. */
const OF_NODE = 'bound checkConnections'
const MAX_SOURCE_LENGTH = 60
const SECOND = 1_000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE

/** The durations to look for: up to `to` milliseconds in steps of `step`, because people choose round numbers. */
const ROUND: readonly { readonly to: number; readonly step: number }[] = [
  { to: 10 * SECOND, step: 100 },
  { to: MINUTE, step: 500 },
  { to: 2 * MINUTE, step: SECOND },
  { to: 10 * MINUTE, step: 5 * SECOND },
  { to: HOUR, step: MINUTE },
  { to: 24 * HOUR, step: 5 * MINUTE },
]

/**
 * Finds active intervals of at least `leastMs` whose duration is a round number, except Node's own ones. Takes about 2 ms. Node has no function that
 * lists timers, so this one creates a timer of each duration and reads its ring. Finds none on a Node with other internals.
 */
export function activeIntervals(leastMs: number): ActiveInterval[] {
  return durations(leastMs).flatMap(everyMs => intervalsOf(everyMs))
}

function durations(leastMs: number): number[] {
  const all: number[] = []
  let from = 0
  for (const { to, step } of ROUND) {
    for (let ms = from + step; ms <= to; ms += step) if (ms >= leastMs) all.push(ms)
    from = to
  }
  return all
}

function intervalsOf(everyMs: number): ActiveInterval[] {
  const found: ActiveInterval[] = []
  const probe = setTimeout(() => {}, everyMs)
  const ownTimer: RingTimer = probe as object
  for (let timer = ownTimer._idlePrev; timer && timer !== ownTimer; timer = timer._idlePrev) {
    const callback = timer._onTimeout
    if (timer._repeat && typeof callback === 'function' && callback.name !== OF_NODE)
      found.push({ everyMs, what: callbackText(callback) })
  }
  clearTimeout(probe)
  return found
}

function callbackText(callback: { readonly name: string }): string {
  if (callback.name !== '') return `${callback.name}()`
  const source = String(callback).replace(/\s+/g, ' ')
  return source.length > MAX_SOURCE_LENGTH ? `${source.slice(0, MAX_SOURCE_LENGTH)}…` : source
}
