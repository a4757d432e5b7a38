import { type Poll, watchPauses } from '../../kernel/index.js'
import type { StateLog } from '../../state/state-log.js'
import type { Leadership } from '../lifecycle/leadership.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { JoinedHolder } from './joined-holder.js'

/** A shorter turn of the event loop is no pause: no process is replaced because of it. */
const PAUSE_MS = 100

interface PausesDeps {
  readonly machine: Machine
  readonly shutdown: Shutdown
  readonly leadership: Leadership
  readonly joined: JoinedHolder
  readonly state: StateLog
  readonly checkSeal: () => void
}

/**
 * After a pause of this process, by a SIGSTOP or a long computation, another process may serve. Then this process reads the messages of its holder
 * before its timers run, and stops its once-only work if its segment is sealed, even if the holder has not told it yet. So it does at each
 * heartbeat: the holder may stop between the seal and its message.
 */
export class Pauses {
  readonly #deps: PausesDeps
  readonly #watch: Pick<Poll, 'close'>

  constructor(deps: PausesDeps) {
    this.#deps = deps
    this.#watch = watchPauses(PAUSE_MS, () => this.hear())
  }

  hear(): void {
    const { checkSeal, joined, leadership, machine, shutdown, state } = this.#deps
    joined.link?.channel.readNow()
    if (shutdown.over || machine.phase !== 'serving' || !machine.sealed) return
    void leadership.quiesce()
    checkSeal()
    // Reads what the other process has written, so that listeners of sections learn of it.
    void state.position
  }

  close(): void {
    this.#watch.close()
  }
}
