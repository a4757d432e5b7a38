import { ControlListener } from '../channel/control-listener.js'
import type { Logger } from '../logger.js'
import type { Operations } from '../operator/requests.js'
import { letGoOfControl } from '../process/control-path.js'
import { takeControl } from '../supervised/take-control.js'

/** The control socket of a supervisor. What answers there is loaded for the first who asks. */
export interface Control {
  /** The path goes too. Idempotent. */
  close(): void
}

/** `path` is absolute. Rejects as {@link takeControl} does. */
export async function openControl(path: string, operations: Operations, logger: Logger): Promise<Control> {
  const place = await takeControl(path, {
    remedy: 'have it upgrade (fd-broker upgrade), end it, or give this one another control path',
  })
  const listener = new ControlListener(place.listener)
  listener.start({
    channel: (fd, who) => {
      import('./desk.js').then(
        ({ receive }) => receive(fd, who, operations, logger),
        error => {
          fd.close()
          logger.error({ err: error }, 'an operator could not be answered')
        },
      )
    },
    error: error => logger.error({ err: error }, 'accepting on the control socket failed'),
  })
  let open = true
  return {
    close() {
      if (!open) return
      open = false
      listener.stop()
      letGoOfControl(place)
    },
  }
}
