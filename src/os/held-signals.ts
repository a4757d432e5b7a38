import { constants } from 'node:os'
import { addonFile } from '../kernel/index.js'
import { HELD_SIGNALS, startedAs } from './command-line.js'

/** The mask has 31 bits, so that it stays a positive integer. */
const LAST_SIGNAL = 31

/** Bit n - 1 stands for signal n. */
export function maskOf(signals: readonly string[]): number {
  const numbers = signals.map(name => constants.signals[name as NodeJS.Signals])
  return numbers
    .filter(number => number <= LAST_SIGNAL)
    .reduce((mask, number) => mask | (1 << (number - 1)), 0)
}

/** Returns the environment in which the next image of this process preloads the addon and blocks these signals; null if that is impossible. */
export function holdingVariables(mask: number): NodeJS.ProcessEnv | null {
  const file = process.platform === 'linux' ? addonFile() : null
  // LD_PRELOAD cannot contain such paths.
  if (file === null || /[\s:$]/.test(file)) return null
  const { LD_PRELOAD: before } = startedAs.env
  // If LD_PRELOAD was set but empty, the colon tells the next image to restore the empty value.
  return { [HELD_SIGNALS]: `${mask}`, LD_PRELOAD: before === undefined ? file : `${file}:${before}` }
}
