import { resolve } from 'node:path'
import { FdbError } from '../../errors.js'
import { acquireControl, type FirstControl } from '../control-path.js'
import { passedSockets } from './passed-sockets.js'

/**
 * The control socket of one that holds a service alone: the one that a service manager has bound for it, or a new one. Rejects with
 * ERR_FDB_CONTROL_TAKEN, and `remedy`, when another process holds the path, and as {@link acquireControl} does.
 */
export async function takeControl(
  path: string,
  { signal, remedy }: { signal?: AbortSignal | undefined; remedy: string },
): Promise<FirstControl> {
  const passed = passedSockets().takePath(resolve(path))
  const place = await acquireControl(path, { signal, passed }).catch(error => {
    passed?.close()
    throw error
  })
  if (place.role === 'first') return place
  place.channel.close()
  passed?.close()
  throw new FdbError('ERR_FDB_CONTROL_TAKEN', `another process holds ${place.path}: ${remedy}`)
}
