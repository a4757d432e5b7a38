import { sendsBack } from '../../handoff/member-machine.js'
import type { Machine, Origin } from '../lifecycle/process-machine.js'
import type { Settings } from '../options/options.js'
import type { DaemonEntries } from './daemon-entries.js'
import { reconnectToDaemon } from './holder-link.js'
import type { JoinedHolder } from './joined-holder.js'

export interface DaemonReturnDeps {
  readonly settings: Settings
  readonly origin: Pick<Origin, 'generation'>
  readonly machine: Machine
  readonly joined: JoinedHolder
  readonly entries: Pick<DaemonEntries, 'hold' | 'repeat'>
  /** Called when this process has a new link to the daemon. `restarted`: the daemon is another process than before. */
  readonly returned: (restarted: boolean) => void
}

/** Daemon hosting: connects this process to the daemon again, or to a restarted one, when the channel was lost. */
export class DaemonReturn {
  readonly #deps: DaemonReturnDeps
  #returning: AbortController | null = null

  constructor(deps: DaemonReturnDeps) {
    this.#deps = deps
  }

  start(): void {
    const { entries, joined, machine, origin, returned, settings } = this.#deps
    this.close()
    const returning = new AbortController()
    this.#returning = returning
    const old = joined.holder
    if (old === null) return
    old.link.close()
    const { signal } = returning
    void reconnectToDaemon(settings, old, origin.generation, signal).then(link => {
      if (link === null || signal.aborted) {
        link?.close()
        return
      }
      const restarted = link.facts.incarnation !== old.facts.incarnation
      old.close()
      joined.attach(link)
      // Back must be sent first: it claims all descriptors that the daemon has received before it.
      if (sendsBack(machine.phase)) entries.hold(link.link)
      else entries.repeat(link.link)
      machine.step({ type: 'reconnected', restarted, sealed: machine.sealed })
      returned(restarted)
    })
    void old.fate().then(fate => {
      if (fate === 'dead' && joined.holder === old)
        machine.step({ type: 'fate', fate, sealed: machine.sealed })
    })
  }

  /** Stops connecting: this process leaves. */
  close(): void {
    this.#returning?.abort()
  }
}
