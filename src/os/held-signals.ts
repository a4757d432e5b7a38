import { constants } from 'node:os'
import { addonFile } from '../kernel/index.js'
import { HELD_SIGNALS, startedAs } from './command-line.js'

/** Environment variable of `native/waiting.c`: the process whose end the addon awaits, if it is preloaded, before Node starts. */
export const WAITS = 'FD_BROKER_WAITS'

/** The mask has 31 bits, so that it stays a positive integer. */
const LAST_SIGNAL = 31

/** Returns a mask of signals: bit n - 1 stands for signal n. */
export function maskOf(signals: readonly string[]): number {
  const numbers = signals.map(name => constants.signals[name as NodeJS.Signals])
  return numbers
    .filter(number => number <= LAST_SIGNAL)
    .reduce((mask, number) => mask | (1 << (number - 1)), 0)
}

/**
 * The signals that `fd-broker keep` passes on or ignores, and which stay blocked while a program of the same process executes another, until that one handles
 * them: the default action would end the process, and SIGUSR1 would open Node's inspector.
 */
export const KEEP_MASK = maskOf(['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'])

/** Returns variables by which the program that this process executes preloads the addon, which blocks these signals; null if impossible. */
export function holdingVariables(mask: number): NodeJS.ProcessEnv | null {
  const file = process.platform === 'linux' ? addonFile() : null
  // LD_PRELOAD separates paths by spaces and colons, and expands `$`.
  if (file === null || /[\s:$]/.test(file)) return null
  const { LD_PRELOAD: before } = startedAs.env
  // The colon also follows if LD_PRELOAD was set but empty: `forgetPreload()` restores the text behind it.
  return { [HELD_SIGNALS]: `${mask}`, LD_PRELOAD: before === undefined ? file : `${file}:${before}` }
}
