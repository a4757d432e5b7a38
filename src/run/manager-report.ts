import { Reminders } from '../os/service-manager/reminders.js'
import type { ServiceManager } from '../os/service-manager/service-manager.js'
import { coming, type SupervisorState, serving } from './machine.js'

/** What a service manager is told of a supervisor, which stays its main process. */
export class ManagerReport {
  readonly #manager: ServiceManager | null
  readonly #reminders: Reminders
  /** What was said last. */
  #said = ''
  #wasUp = false

  /** `manager` null: nobody wants to hear. */
  constructor(manager: ServiceManager | null) {
    this.#manager = manager
    this.#reminders = new Reminders(manager, () => true)
    this.#reminders.live()
  }

  /** A step was taken. `failure`: why the last version that was tried does not serve. */
  look(state: SupervisorState, failure: string | null): void {
    const manager = this.#manager
    if (manager === null) return
    const [now, next] = [serving(state), coming(state)]
    if (state.mode !== 'running') {
      if (this.#isNew('ends')) manager.ends('the program is told to end')
    } else if (now === undefined) {
      const status =
        next === undefined ? 'no version is left; one will be started anew' : `version ${next.id} starts`
      if (this.#isNew(`none ${next?.id}`)) manager.says(status)
    } else if (next !== undefined && this.#wasUp) {
      if (this.#isNew(`upgrade ${next.id}`))
        manager.changes(`version ${next.id} starts; version ${now.id} serves`)
    } else {
      this.#wasUp = true
      const status = `version ${now.id} serves`
      if (this.#isNew(`serves ${now.id} ${state.started}`))
        manager.serves(now.id === state.started || failure === null ? status : `${status}: ${failure}`)
    }
    // Readiness and stopping have limits of their own.
    if (now !== undefined && next === undefined && state.mode === 'running') this.#reminders.takeNoTime()
    else this.#reminders.takeTime()
  }

  /** The settings are read anew; what comes of it the next {@link look} tells. */
  rereads(): void {
    if (!this.#wasUp) return
    this.#manager?.changes('the settings are read anew')
    this.#said = ''
  }

  close(): void {
    this.#reminders.close()
  }

  #isNew(what: string): boolean {
    if (this.#said === what) return false
    this.#said = what
    return true
  }
}
