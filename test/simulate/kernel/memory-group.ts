import type { SimulatedProcess } from '../process.js'
import { at, type World } from '../world.js'
import { fail } from './objects.js'

const MIB = 1024 * 1024
const LIMIT_BYTES = 256 * MIB
/** No process of Node serves with so little. */
const LEFT_BYTES = 4 * MIB
const GROUP = '/shop'
const FOLDER = `/sys/fs/cgroup${GROUP}`

/** The control group of all processes of a world: without a limit of memory, until a run fills it. */
export class MemoryGroup {
  readonly #world: World
  #isLimited = false
  /** Since when no process of Node has room; infinite if one has. */
  fullSince = Number.POSITIVE_INFINITY
  /** Called when a process asks for the room, and there is none: it is about to refuse a start. */
  onRefusal: (p: SimulatedProcess) => void = () => {}

  constructor(world: World) {
    this.#world = world
  }

  /** Leaves no room for `ms`. */
  fill(ms: number): void {
    this.#isLimited = true
    this.fullSince = Math.min(this.fullSince, this.#world.now)
    this.#world.after(ms, () => {
      this.fullSince = Number.POSITIVE_INFINITY
    })
  }

  /** Returns the text of a file about memory; null for another path. */
  text(path: string): string | null {
    if (path === '/proc/self/cgroup' && this.#isLimited) return `0::${GROUP}\n`
    if (path === '/proc/meminfo') return 'SwapTotal:              0 kB\n'
    if (!path.startsWith('/sys/fs/cgroup/')) return null
    switch (path) {
      case `${FOLDER}/memory.max`:
        return `${LIMIT_BYTES}\n`
      case `${FOLDER}/memory.current`:
        if (this.fullSince === Number.POSITIVE_INFINITY) return `${LIMIT_BYTES / 2}\n`
        this.onRefusal(at.p)
        return `${LIMIT_BYTES - LEFT_BYTES}\n`
      default:
        return fail('ENOENT', 'open')
    }
  }
}
