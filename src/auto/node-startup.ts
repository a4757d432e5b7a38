import type inspector from 'node:inspector'
import { Module } from 'node:module'

interface Runner {
  runMain?: (...args: unknown[]) => unknown
}

/**
 * Has the program's main file wait where this was preloaded by `node --require`: Node lets preloaded modules replace the function that runs
 * it. With `--import` Node waits by itself, and has called it already, as it has where the program itself loads this.
 */
export function delayMain(until: Promise<void>): void {
  const runner = Module as Runner
  const { runMain } = runner
  if (typeof runMain !== 'function') return
  runner.runMain = (...args) => {
    runner.runMain = runMain
    // A promise does not keep the process.
    const keeps = setInterval(() => {}, 60_000)
    void until.then(() => {
      clearInterval(keeps)
      // An exception of the program ends the process as one of its own, and is no rejection.
      process.nextTick(() => Reflect.apply(runMain, runner, args))
    })
  }
}

/** The version before has the inspector's port (`--inspect`): this one gets a free port, which Node prints. */
export function openInspector(): void {
  const words = [...process.execArgv, ...(process.env.NODE_OPTIONS ?? '').split(/\s+/)]
  if (!words.some(word => /^--inspect(?:-brk|-wait)?(?:=|$)/.test(word))) return
  const { open, url } = process.getBuiltinModule('node:inspector') as typeof inspector
  if (url() === undefined) open(0)
}
