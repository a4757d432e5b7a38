import { NOTHING_TOLD } from '../os/service-manager/service-manager.js'
import { LEFT_VARIABLE } from './left-behind.js'
import type { GivenListener } from './shared-listeners.js'

/** The variable in which a child finds its own pid: the descriptors are meant for it, not for what it starts. */
export const PID_VARIABLE = 'LISTEN_PID'

/** Marks each process of a version, also those that leave its group: see {@link ProcessMembers.ofGroup}. */
export const VERSION_VARIABLE = 'FD_BROKER_VERSION_OF'

/** What the supervisor was told by its own: none of it is meant for what it starts. */
const NONE: NodeJS.ProcessEnv = {
  ...NOTHING_TOLD,
  SERVER_STARTER_PORT: undefined,
  SERVER_STARTER_GENERATION: undefined,
  [LEFT_VARIABLE]: undefined,
}

/** How a version is told of its listeners: as systemd and as Server::Starter do it. The first is descriptor 3. */
export function listenerVariables(listeners: readonly GivenListener[], version: number): NodeJS.ProcessEnv {
  if (listeners.length === 0) return { ...NONE, SERVER_STARTER_GENERATION: `${version}` }
  return {
    ...NONE,
    LISTEN_FDS: `${listeners.length}`,
    LISTEN_FDNAMES: listeners.map(({ name }) => name).join(':'),
    SERVER_STARTER_PORT: listeners
      .map(({ spec, address }, index) => {
        const bound = spec.kind === 'unix' ? `unix:${spec.abstract ? '@' : ''}${spec.path}` : address
        return `${portOf(bound)}=${3 + index}`
      })
      .join(';'),
    SERVER_STARTER_GENERATION: `${version}`,
  }
}

/** Of an address as {@link formatAddress} writes it: `127.0.0.1:80`, `[::1]:80`, `u127.0.0.1:53`, `/run/a.sock`, `@name`. */
export function portOf(address: string): string {
  const at = address.indexOf(':')
  const where = address.slice(at + 1).replace(/^\/\/(?!\/)/, '')
  return address.startsWith('udp:') ? `u${where}` : where
}
