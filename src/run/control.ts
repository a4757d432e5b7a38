import type { Logger } from '../base/logger.js'
import { type FirstControl, releaseControl } from '../os/control-path.js'
import { ControlWatch, withRestored } from '../os/restore-control.js'
import { ControlListener } from '../wire/control-listener.js'
import { type OperableSupervisor, takeControl } from './control-server.js'
import type { SupervisorSettings } from './settings.js'

/** The control socket of a supervisor. Its server module is loaded for the first client. */
export class Control {
  readonly #supervisor: OperableSupervisor
  readonly #settings: SupervisorSettings
  readonly #logger: Logger
  readonly #watch: ControlWatch
  #firstControl: FirstControl
  #listener!: ControlListener
  #open = true

  /** `path` is absolute. Rejects as {@link takeControl} does. */
  static async open(
    path: string,
    supervisor: OperableSupervisor,
    settings: SupervisorSettings,
    logger: Logger,
  ): Promise<Control> {
    const place = await takeControl(path, {
      remedy: 'have it upgrade (fd-broker upgrade), end it, or give this one another control path',
    })
    return new Control(place, supervisor, settings, logger)
  }

  constructor(
    place: FirstControl,
    supervisor: OperableSupervisor,
    settings: SupervisorSettings,
    logger: Logger,
  ) {
    this.#supervisor = supervisor
    this.#settings = settings
    this.#logger = logger
    this.#firstControl = place
    this.#listen()
    this.#watch = new ControlWatch({
      control: () => this.#firstControl,
      restored: made => {
        this.#listener.stop()
        this.#firstControl = withRestored(this.#firstControl, made)
        this.#listen()
      },
      logger,
    })
    this.#watch.start()
  }

  /** Borrowed by the caller. */
  get firstControl(): FirstControl {
    return this.#firstControl
  }

  /** Closes the socket and removes its path. Idempotent. */
  close(): void {
    if (!this.#open) return
    this.#open = false
    this.#watch.stop()
    this.#listener.stop()
    releaseControl(this.#firstControl, this.#logger)
  }

  #listen(): void {
    this.#listener = new ControlListener(this.#firstControl.listener)
    this.#listener.start({
      channel: (fd, credentials) => {
        import('./control-server.js').then(
          ({ serveOperator: receive }) =>
            receive(fd, credentials, this.#supervisor, this.#settings, this.#logger),
          error => {
            fd.close()
            this.#logger.error({ err: error }, 'an operator could not be answered')
          },
        )
      },
      error: error => this.#logger.error({ err: error }, 'accepting on the control socket failed'),
    })
  }
}
