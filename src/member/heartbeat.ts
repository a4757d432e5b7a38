import { SuspendDetector } from '../os/liveness.js'
import type { Link } from '../wire/link.js'

export interface HeartbeatOptions {
  /** The interval, as the holder wants it; asked at {@link Heartbeat.start}. */
  everyMs(): number
  /** The channel to the holder, as it is now. */
  link(): Pick<Link, 'beat' | 'idleMs' | 'open'> | undefined
  /** The application's own word; one that throws says no. */
  healthy: Health
  report(): object
  /** Silence of the holder that counts as its end: a daemon that is stopped keeps its channels. */
  silenceMs(): number
  silent(): void
  /** The holder says something again, over the same channel. */
  heard(): void
}

/** Tells the holder regularly that this process lives and is well, and notices when the holder says nothing. */
export class Heartbeat {
  readonly #options: HeartbeatOptions
  readonly #awake = new SuspendDetector()
  #everyMs = 0
  #silent = false
  #timer: NodeJS.Timeout | undefined

  constructor(options: HeartbeatOptions) {
    this.#options = options
  }

  /** Beats at once, then regularly. */
  start(): void {
    this.stop()
    this.#everyMs = this.#options.everyMs()
    this.#awake.restart()
    this.#beat()
    this.#timer = setInterval(() => this.#beat(), this.#everyMs)
    this.#timer.unref()
  }

  /** Beats once more, now. */
  now(): void {
    this.#beat()
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#silent = false
  }

  /** The holder has a channel to us and says nothing on it. */
  get holderSilent(): boolean {
    return this.#silent
  }

  #beat(): void {
    const now = performance.now()
    const awakeSince = this.#awake.tick(this.#everyMs, now)
    const link = this.#options.link()
    if (link === undefined) return
    const { healthy, report } = this.#options
    link.beat({ ...wellness(healthy), report: JSON.stringify(report()) })
    const before = this.#silent
    this.#silent = link.open && Math.min(link.idleMs, now - awakeSince) > this.#options.silenceMs()
    if (this.#silent) this.#options.silent()
    else if (before && link.open) this.#options.heard()
  }
}

/** The health of the application: true, or false, or a sentence with the reason. */
export type Health = () => boolean | string

const MOST_CHARACTERS = 500

interface Wellness {
  readonly healthy: boolean
  /** Why not, where it says so. */
  readonly unwell?: string
}

/** Asks it. One that throws is not well. */
export function wellness(health: Health): Wellness {
  let said: boolean | string
  try {
    said = health()
  } catch (error) {
    said = `its health hook threw: ${error instanceof Error ? error.message : String(error)}`
  }
  if (typeof said !== 'string') return { healthy: said }
  return { healthy: false, ...(said !== '' && { unwell: said.slice(0, MOST_CHARACTERS) }) }
}
