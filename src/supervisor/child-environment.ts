import { LEFT_VARIABLE } from './left-behind.js'
import type { GivenListener } from './shared-listeners.js'

/** The variable in which a child finds its own pid: the descriptors are meant for it, not for what it starts. */
export const PID_VARIABLE = 'LISTEN_PID'

/** What the supervisor was told by its own: none of it is meant for what it starts. */
const OWN_ONLY = [
  'LISTEN_FDS',
  'LISTEN_FDNAMES',
  'LISTEN_PID',
  'LISTEN_PIDFDID',
  'NOTIFY_SOCKET',
  'WATCHDOG_USEC',
  'WATCHDOG_PID',
  'SERVER_STARTER_PORT',
  'SERVER_STARTER_GENERATION',
  LEFT_VARIABLE,
]

/** How a version is told of its listeners: as systemd and as Server::Starter do it. The first is descriptor 3. */
export function listenerVariables(listeners: readonly GivenListener[], version: number): NodeJS.ProcessEnv {
  const none = Object.fromEntries(OWN_ONLY.map(name => [name, undefined]))
  if (listeners.length === 0) return { ...none, SERVER_STARTER_GENERATION: `${version}` }
  return {
    ...none,
    LISTEN_FDS: `${listeners.length}`,
    LISTEN_FDNAMES: listeners.map(({ name }) => name).join(':'),
    SERVER_STARTER_PORT: listeners.map((listener, index) => `${portOf(listener)}=${3 + index}`).join(';'),
    SERVER_STARTER_GENERATION: `${version}`,
  }
}

/** `127.0.0.1:80`, `[::1]:80`, `u127.0.0.1:53`, `/run/a.sock`, `@name`. */
function portOf({ spec, address }: GivenListener): string {
  if (spec.kind === 'unix') return `${spec.abstract ? '@' : ''}${spec.path}`
  return `${spec.kind === 'udp' ? 'u' : ''}${address.slice(`${spec.kind}://`.length)}`
}
