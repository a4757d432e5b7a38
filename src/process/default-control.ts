import { readdirSync } from 'node:fs'
import { join } from 'node:path'

const SUFFIX = '.sock'
const FOLDER = 'fd-broker'

/**
 * Where the control socket of a service is looked for that was given no path, in this order: `$RUNTIME_DIRECTORY` (as systemd sets
 * it), `/run/fd-broker`, `/run/NAME`, `$XDG_RUNTIME_DIR/fd-broker`; each with `NAME.sock`.
 */
export function controlPlaces(name: string, env: Readonly<NodeJS.ProcessEnv>): string[] {
  return [...folders(env), join('/run', name)].map(folder => join(folder, `${name}${SUFFIX}`))
}

/** All control sockets in those folders: none is looked into. */
export function controlsThere(env: Readonly<NodeJS.ProcessEnv>): string[] {
  return folders(env).flatMap(folder => socketsIn(folder).map(name => join(folder, name)))
}

function folders({ RUNTIME_DIRECTORY = '', XDG_RUNTIME_DIR }: Readonly<NodeJS.ProcessEnv>): string[] {
  const own = RUNTIME_DIRECTORY.split(':').filter(folder => folder !== '')
  const user = XDG_RUNTIME_DIR ? [join(XDG_RUNTIME_DIR, FOLDER)] : []
  return [...new Set([...own, join('/run', FOLDER), ...user])]
}

function socketsIn(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter(entry => entry.isSocket() && entry.name.endsWith(SUFFIX))
      .map(({ name }) => name)
      .sort()
  } catch {
    return []
  }
}
