import { ControlListener } from '../channel/control-listener.js'
import { FdbError } from '../errors.js'
import type { Logger } from '../logger.js'
import type { Operations } from '../operator/requests.js'
import { acquireControl, removeControl } from '../process/control-path.js'
import { passedSockets } from '../supervised/passed-sockets.js'

/** The control socket of a supervisor. What answers there is loaded for the first who asks. */
export interface Control {
  /** The path goes too. Idempotent. */
  close(): void
}

/** `path` is absolute. Rejects with ERR_FDB_CONTROL_TAKEN when another process holds the path, and as `acquireControl()` does. */
export async function openControl(path: string, operations: Operations, logger: Logger): Promise<Control> {
  const passed = passedSockets().takePath(path)
  const place = await acquireControl(path, { passed }).catch(error => {
    passed?.close()
    throw error
  })
  if (place.role === 'next') {
    place.channel.close()
    passed?.close()
    throw new FdbError(
      'ERR_FDB_CONTROL_TAKEN',
      `another process holds ${place.path}: have it upgrade (fd-broker upgrade), end it, or give this one another control path`,
    )
  }
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
      removeControl(place)
      place.listener.close()
      place.lock.close()
    },
  }
}
