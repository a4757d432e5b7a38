import { existsSync } from 'node:fs'
import { join } from 'node:path'

/** A variable of the environment: the file for the last lines on stderr of a successor that does not come to serve. */
export const LAST_LINES = 'FD_BROKER_LAST_LINES'
/** The NODE_OPTIONS that the successor would have without the preload; absent: none. */
export const OWN_OPTIONS = 'FD_BROKER_NODE_OPTIONS'

/**
 * The environment of a successor with `started.ts` preloaded; a program that is not Node takes no notice. Unchanged where the library
 * does not run from its bundle, or is just being replaced on the disk.
 */
export function startedWith(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const preload = join(import.meta.dirname, 'started.cjs')
  if (env[LAST_LINES] === undefined || preload.includes('"') || !existsSync(preload)) return env
  const { NODE_OPTIONS: own } = env
  const option = `--require "${preload.replaceAll('\\', '\\\\')}"`
  return {
    ...env,
    NODE_OPTIONS: own === undefined || own === '' ? option : `${option} ${own}`,
    ...(own !== undefined && { [OWN_OPTIONS]: own }),
  }
}
