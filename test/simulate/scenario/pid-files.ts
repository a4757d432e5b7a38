import type { World } from '../world.js'
import type { Version } from './program.js'

export const PID_FILE = '/run/shop/shop.pid'
const LOOK_MS = 500
/** A version that begins to serve has written the file after so long. */
const WRITTEN_MS = 1_000
/** The version looks every 5 s whether the file is still there. */
const RESTORED_MS = 6_000
const LEAST_CLEAN_MS = 2_000
const MOST_CLEAN_MS = 15_000

/** Removes the pid file of a service now and then, as cleaners of temporary files do, and looks whether it names the version that serves. */
export class PidFiles {
  readonly wrong: string[] = []
  readonly #world: World
  readonly #versions: () => Iterable<Version>
  #cleanedAt = Number.NEGATIVE_INFINITY

  constructor(world: World, versions: () => Iterable<Version>) {
    this.#world = world
    this.#versions = versions
    this.#cleanLater()
    this.#lookLater()
  }

  #cleanLater(): void {
    const world = this.#world
    world.after(LEAST_CLEAN_MS + world.below(MOST_CLEAN_MS - LEAST_CLEAN_MS), () => {
      this.#cleanedAt = world.now
      world.kernel.names.delete(PID_FILE)
      this.#cleanLater()
    })
  }

  #lookLater(): void {
    this.#world.after(LOOK_MS, () => {
      this.#look()
      this.#lookLater()
    })
  }

  #look(): void {
    const { now } = this.#world
    const serving = [...this.#versions()].filter(
      ({ p, served }) => !p.dead && served.at(-1)?.to === Number.POSITIVE_INFINITY,
    )
    const [version] = serving
    if (version === undefined || serving.length > 1) return
    const { p, served } = version
    const { from } = served.at(-1)!
    const since = Math.max(from, p.stoppedUntil)
    // A version that was stopped when the file was removed looks again after it.
    const cleaned = this.#cleanedAt > from
    const due = Math.max(since + WRITTEN_MS, cleaned ? Math.max(this.#cleanedAt, since) + RESTORED_MS : 0)
    const file = this.#world.kernel.names.get(PID_FILE)
    const text = file?.data.toString('latin1', 0, file.size) ?? ''
    if (now < due || text === `${p.pid}\n` || this.wrong.length > 0) return
    this.wrong.push(
      `${p.name}, process ${p.pid}, has served since ${since.toFixed(0)}, and at ${now.toFixed(0)} the pid file names "${text.trim()}"`,
    )
  }
}
