import { constants } from 'node:os'
import type { ProcessMembers } from '../versions/process-members.js'

/** How often the processes that were told to end are looked at. */
const LOOK_MS = 20

interface Stray {
  readonly version: number
  readonly members: ProcessMembers
  readonly grace: NodeJS.Timeout
  readonly look: NodeJS.Timeout
}

/**
 * Processes that a version's main process has left behind when it ended. They may still accept on the version's listeners, so they
 * are told to end, and killed if they do not.
 */
export class Strays {
  readonly #strays = new Set<Stray>()

  /** Ends the members, and calls `ended` when none lives. Owns `members`. */
  end(
    version: number,
    members: ProcessMembers,
    signal: NodeJS.Signals,
    graceMs: number,
    ended: () => void,
  ): void {
    members.signal(constants.signals[signal])
    const kill = () => members.signal(constants.signals.SIGKILL)
    const look = setInterval(() => {
      if (members.pids.length > 0) return
      this.#strays.delete(stray)
      close(stray)
      ended()
    }, LOOK_MS)
    // The interval goes on: a process may be forked while the others are killed.
    const stray: Stray = { version, members, look, grace: setInterval(kill, Math.max(graceMs, LOOK_MS)) }
    this.#strays.add(stray)
  }

  /** Kills what a version has left behind. */
  kill(version: number): void {
    for (const stray of this.#strays)
      if (stray.version === version) stray.members.signal(constants.signals.SIGKILL)
  }

  get list(): { readonly version: number; readonly pid: number }[] {
    return [...this.#strays].flatMap(({ version, members }) => members.pids.map(pid => ({ version, pid })))
  }

  /** Kills those that are left. */
  close(): void {
    for (const stray of this.#strays) {
      stray.members.signal(constants.signals.SIGKILL)
      close(stray)
    }
    this.#strays.clear()
  }
}

function close({ members, grace, look }: Stray): void {
  clearInterval(grace)
  clearInterval(look)
  members[Symbol.dispose]()
}
