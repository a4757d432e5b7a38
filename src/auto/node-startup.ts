import type inspector from 'node:inspector'
import { Module } from 'node:module'

interface Runner {
  runMain?: (...args: unknown[]) => unknown
}

/**
 * Delays the program's main file until `until` resolves, if `node --require` has preloaded fd-broker/auto: a preloaded module can replace
 * Node's function `runMain`. With `--import`, or if the program imports fd-broker/auto itself, Node has already called that function, and
 * waits for the import.
 */
export function delayMain(until: Promise<unknown>): void {
  const runner = Module as Runner
  const { runMain } = runner
  if (typeof runMain !== 'function') return
  runner.runMain = (...args) => {
    runner.runMain = runMain
    // A pending promise does not keep the process alive.
    const alive = setInterval(() => {}, 60_000)
    void until.then(() => {
      clearInterval(alive)
      // In its own tick, so that an exception of the program does not become a rejection of this promise.
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
