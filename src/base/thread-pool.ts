/**
 * Starts the threads on which libuv opens files and looks up names, while this process does not serve yet. libuv starts all of them at their first
 * use and, where a thread cannot be made (`pids.max`, `TasksMax=`, `ulimit -u`), aborts the process: in an upgrade that would be the version that serves.
 * Source: `init_threads()` in libuv's src/threadpool.c.
 */
export function startThreadPool(): void {
  process.getBuiltinModule('node:fs').access('/', () => {})
}
