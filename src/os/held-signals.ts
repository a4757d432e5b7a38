import { constants } from 'node:os'
import { addonFile } from '../kernel/index.js'
import { preloadedWith, startedAs } from './command-line.js'

/** The highest signal number in a mask of 31 bits. */
const LAST_SIGNAL = 31

/** Bit n - 1 stands for signal n. */
export function maskOf(signals: readonly string[]): number {
  const numbers = signals.map(name => constants.signals[name as NodeJS.Signals])
  return numbers
    .filter(number => number <= LAST_SIGNAL)
    .reduce((mask, number) => mask | (1 << (number - 1)), 0)
}

/**
 * Returns the environment in which the next image of this process starts with these signals blocked; null if this system does not support
 * that.
 */
export function holdingVariables(mask: number): NodeJS.ProcessEnv | null {
  const file = process.platform === 'linux' ? addonFile() : null
  return file === null ? null : preloadedWith(file, mask, startedAs.env.LD_PRELOAD)
}
