import { spawn } from 'node:child_process'
import { numbersOf } from '../../src/kernel/index.js'
import type { NotifyRecorder } from './notify-socket.js'

/**
 * Starts a process as the service manager of a unit with `FileDescriptorStoreMax=` does: with all that it has kept. Resolves with its
 * pid; its output goes to the file `log`.
 */
export function startWithKept(
  manager: NotifyRecorder,
  command: readonly string[],
  { env, log }: { readonly env: NodeJS.ProcessEnv; readonly log: string },
): number {
  const kept = [...manager.kept].flatMap(([name, fds]) => fds.map(fd => ({ name, fd })))
  const script = 'LISTEN_PID=$$ exec "$@" >>"$FDB_TEST_LOG" 2>&1'
  const { pid } = spawn('/bin/sh', ['-c', script, 'sh', ...command], {
    env: {
      ...env,
      ...manager.env,
      FDSTORE: '512',
      FDB_TEST_LOG: log,
      LISTEN_FDS: String(kept.length),
      LISTEN_FDNAMES: kept.map(({ name }) => name).join(':'),
    },
    stdio: ['ignore', 'ignore', 'ignore', ...numbersOf(kept.map(({ fd }) => fd))],
  })
  return pid!
}
