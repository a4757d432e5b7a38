import { wrongOption } from '../base/check-option.js'
import { FdbError } from '../errors.js'
import type { Announcer } from './announcer.js'

/** The application's way to read its configuration anew. */
export class Reloading {
  readonly #announcer: Announcer
  #hook: (() => unknown) | null = null
  #last: Promise<unknown> = Promise.resolve()

  constructor(announcer: Announcer) {
    this.#announcer = announcer
  }

  set(hook: () => unknown): void {
    if (typeof hook !== 'function') throw wrongOption('hook', hook, 'a function')
    if (this.#hook !== null)
      throw new FdbError('ERR_FDB_OPTION', 'onReload() was called before: give it one hook')
    this.#hook = hook
  }

  /** One at a time, in the order of the calls. */
  async run(): Promise<void> {
    const hook = this.#hook
    if (hook === null) {
      throw new FdbError(
        'ERR_FDB_COMMAND_UNKNOWN',
        'this service has nothing to reload (it has not called onReload()): upgrade it',
      )
    }
    const done = this.#last.then(() => this.#announcer.reload(hook))
    this.#last = done.catch(() => {})
    await done
  }
}
