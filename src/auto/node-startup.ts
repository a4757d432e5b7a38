import type inspector from 'node:inspector'
import { Module } from 'node:module'

interface Runner {
  runMain?: (...args: unknown[]) => unknown
}

/**
 * Delays the program's main file until `until` resolves if this was preloaded by `node --require`: Node lets preloaded modules replace the
 * function that runs it. With `--import`, or if the program imports this itself, Node has already called that function, and waits by
 * itself.
 */
export function delayMain(until: Promise<void>): void {
  const runner = Module as Runner
  const { runMain } = runner
  if (typeof runMain !== 'function') return
  runner.runMain = (...args) => {
    runner.runMain = runMain
    // A pending promise does not keep the process alive.
    const keeps = setInterval(() => {}, 60_000)
    void until.then(() => {
      clearInterval(keeps)
      // In a tick of its own: an exception of the program must not become a rejection.
      process.nextTick(() => Reflect.apply(runMain, runner, args))
    })
  }
}

/** Opens the inspector (`--inspect`) on a free port, which Node prints: the previous version still uses the given port. */
export function openInspector(): void {
  const words = [...process.execArgv, ...(process.env.NODE_OPTIONS ?? '').split(/\s+/)]
  if (!words.some(word => /^--inspect(?:-brk|-wait)?(?:=|$)/.test(word))) return
  const { open, url } = process.getBuiltinModule('node:inspector') as typeof inspector
  if (url() === undefined) open(0)
}
