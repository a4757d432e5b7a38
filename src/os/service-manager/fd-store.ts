import type { OwnedFd } from '../../kernel/index.js'
import type { NotifySocket } from './notify-socket.js'
import { KEPT, passedSockets } from './passed-sockets.js'

const MOST_NAME = 255

/**
 * Descriptors that the service manager keeps for a service (`FileDescriptorStoreMax=`): the next process gets them when this one was
 * killed, or the unit is restarted. It lets go of them when the unit stops.
 */
export class FdStore {
  readonly #socket: NotifySocket
  readonly #prefix: string

  constructor(socket: NotifySocket, service: string) {
    this.#socket = socket
    this.#prefix = prefixOf(service)
  }

  /** Borrows the descriptor. The same object under the same name is kept once. A manager that keeps none closes it. */
  keep(name: string, fd: OwnedFd): void {
    const whole = this.#prefix + name
    if (whole.length <= MOST_NAME) this.#socket.say({ FDSTORE: 1, FDNAME: whole, FDPOLL: 0 }, fd)
  }

  drop(name: string): void {
    const whole = this.#prefix + name
    if (whole.length <= MOST_NAME) this.#socket.say({ FDSTOREREMOVE: 1, FDNAME: whole })
  }
}

/** What the manager has kept for this service, by the names that {@link FdStore.keep} got. Owned by the caller. */
export function keptFor(service: string): { readonly name: string; readonly fd: OwnedFd }[] {
  const prefix = prefixOf(service)
  return passedSockets()
    .takeKept(prefix)
    .map(({ name, fd }) => ({ name: name.slice(prefix.length), fd }))
}

/** A colon would end the name. */
function prefixOf(service: string): string {
  return `${KEPT}${encodeURIComponent(service)}.`
}
