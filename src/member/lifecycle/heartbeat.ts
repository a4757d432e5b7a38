import { isPromise } from 'node:util/types'
import { SuspendDetector } from '../../os/liveness.js'
import type { Link } from '../../wire/link.js'
import type { Health } from '../options/options.js'

export interface HeartbeatDeps {
  link(): Pick<Link, 'beat' | 'idleMs' | 'open'> | undefined
  everyMs(): number
  /** Returns the time without a message after which the holder counts as stopped. */
  silenceMs(): number
  health(): HealthResult
  report(): object
  readonly events: {
    /** Called before each heartbeat. */
    before(): void
    onSilent(): void
    /** Called when the holder sends again after a silence, over the same channel. */
    onHeard(): void
  }
}

/** Sends heartbeats with this process's health to the holder, and notices if the holder is silent. */
export class Heartbeat {
  readonly #deps: HeartbeatDeps
  readonly #awake = new SuspendDetector()
  #everyMs = 0
  #silent = false
  #timer: NodeJS.Timeout | undefined

  constructor(deps: HeartbeatDeps) {
    this.#deps = deps
  }

  /** Sends a heartbeat at once, then regularly. */
  start(): void {
    this.stop()
    this.#everyMs = this.#deps.everyMs()
    this.#awake.restart()
    this.#timer = setInterval(() => this.#hearAndBeat(), this.#everyMs).unref()
    this.#hearAndBeat()
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
    this.#silent = false
  }

  /** Whether the channel is open, but the holder has sent nothing for too long. */
  get holderSilent(): boolean {
    return this.#silent
  }

  #hearAndBeat(): void {
    this.#deps.events.before()
    // A message that was heard may have stopped the heartbeats.
    if (this.#timer !== undefined) this.beat()
  }

  beat(): void {
    const link = this.#deps.link()
    // Before the time is taken: a stop of this process between the two must not count as silence of the holder.
    const idleMs = link?.idleMs ?? 0
    const now = performance.now()
    const awakeSince = this.#awake.tick(this.#everyMs, now)
    if (link === undefined) return
    const { health, report } = this.#deps
    link.beat({ ...health(), report: JSON.stringify(report()) })
    const before = this.#silent
    this.#silent = link.open && Math.min(idleMs, now - awakeSince) > this.#deps.silenceMs()
    if (this.#silent) this.#deps.events.onSilent()
    else if (before && link.open) this.#deps.events.onHeard()
  }
}

const MOST_CHARACTERS = 500

interface HealthResult {
  readonly healthy: boolean
  /** This process asks the holder to let the standby take over. */
  readonly rollsBack?: true
  /** The reason why the application is not healthy, if the hook gave one. */
  readonly unwell?: string
}

export const ROLLS_BACK: HealthResult = { healthy: false, rollsBack: true }

/** Calls the health hook. A hook that throws, or that returns no answer or a promise of one, counts as unhealthy. */
export function checkHealth(health: Health): HealthResult {
  let result: unknown
  try {
    result = health()
  } catch (error) {
    result = `its health hook threw: ${error instanceof Error ? error.message : String(error)}`
  }
  if (isPromise(result)) {
    result.catch(() => {})
    result = 'its health hook returned a promise: it must answer at once'
  }
  result ??= `its health hook returned ${String(result)}`
  if (typeof result !== 'string') return { healthy: Boolean(result) }
  return { healthy: false, ...(result !== '' && { unwell: result.slice(0, MOST_CHARACTERS) }) }
}
