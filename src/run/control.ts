import { resolve } from 'node:path'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { isShortage } from '../kernel/index.js'
import type { ServedService } from '../operator/service-name.js'
import { startedAs } from '../os/command-line.js'
import { acquireControl, type FirstControl, releaseControl } from '../os/control-path.js'
import { runControl } from '../os/default-control.js'
import { outOfDescriptors } from '../os/limits.js'
import { ControlWatch, withRestored } from '../os/restore-control.js'
import { passedSockets } from '../os/service-manager/passed-sockets.js'
import { ControlListener } from '../wire/control-listener.js'
import type { OperableSupervisor } from './control-server.js'
import type { SupervisorSettings } from './settings.js'

/**
 * Listens at the configured control path or, if none is configured, at the default one. For a configured path rejects as
 * {@link takeControl} does. If the default path fails, logs a warning and resolves with null.
 */
export async function openControl(
  settings: SupervisorSettings,
  logger: Logger,
): Promise<FirstControl | null> {
  const { control, name } = settings
  const remedy = 'upgrade that process (fd-broker upgrade), end it, or give another control path (--control)'
  if (control !== null) return await takeControl(control, remedy)
  try {
    const remedy = 'give this program another name (--name)'
    const place = await takeControl(runControl(name, startedAs.env), remedy)
    logger.info({ control: place.path }, `fd-broker commands find this program by --service ${name}`)
    return place
  } catch (error) {
    logger.warn(
      { err: error },
      'no fd-broker command (status, upgrade, stop) finds this program: give --control or --name',
    )
    return null
  }
}

/**
 * Listens at the control path of a supervisor, with the socket that a service manager bound or a new one. Rejects with
 * ERR_FDB_CONTROL_TAKEN if another process listens there (`remedy` ends the message), and as {@link acquireControl} does.
 */
async function takeControl(path: string, remedy: string): Promise<FirstControl> {
  const passed = passedSockets().takePath(resolve(path))
  const place = await acquireControl(path, { passed }).catch(error => {
    passed?.close()
    throw error
  })
  if (place.role === 'first') return place
  place.channel.close()
  passed?.close()
  throw new FdbError('ERR_FDB_CONTROL_TAKEN', `another process holds ${place.path}: ${remedy}`)
}

/** The control socket of a supervisor. The module that serves clients is loaded when the first one connects. */
export class Control {
  readonly #supervisor: OperableSupervisor
  readonly #settings: SupervisorSettings
  readonly #logger: Logger
  readonly #watch: ControlWatch
  #firstControl: FirstControl
  #listener: ControlListener
  #open = true

  /** Owns `place`. */
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
    this.#listener = new ControlListener(place.listener)
    try {
      this.#listen()
    } catch (error) {
      throw isShortage(error) ? outOfDescriptors('the control socket cannot be watched', error) : error
    }
    this.#watch = new ControlWatch({
      control: () => this.#firstControl,
      restored: made => {
        this.#listener.stop()
        this.#firstControl = withRestored(this.#firstControl, made)
        this.#listener = new ControlListener(this.#firstControl.listener)
      },
      accept: () => this.#listen(),
      logger,
    })
    this.#watch.start()
  }

  /** Borrowed by the caller. */
  get firstControl(): FirstControl {
    return this.#firstControl
  }

  get #served(): ServedService {
    return { service: this.#settings.name, control: this.#firstControl.path }
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
    if (this.#listener.accepting) return
    this.#listener.start({
      channel: (fd, credentials) => {
        import('./control-server.js')
          .then(({ serveRunOperator }) =>
            serveRunOperator(fd, credentials, this.#supervisor, this.#served, this.#logger),
          )
          // Also an error of serving, such as a shortage of memory, must not end this process.
          .catch(error => {
            fd.close()
            this.#logger.error({ err: error }, 'the connection of an operator was closed without an answer')
          })
      },
      error: error =>
        this.#logger.error({ err: error }, 'a connection to the control socket was not accepted'),
    })
  }
}
