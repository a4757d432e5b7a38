import { constants } from 'node:os'
import { setImmediate } from 'node:timers/promises'
import { addonFile, holdSignals, releaseSignals } from '../kernel/index.js'
import { preloadedWith, startedAs } from '../os/command-line.js'

/** The exit code of a release that was tried with signals blocked, and has unblocked them. */
export const RELEASES_SIGNALS = 80

/** The highest number that a mask of 31 bits has. */
const LAST_SIGNAL = 31

/** The environment in which the next image starts with the signals blocked that this process handles. Null: this system knows no way. */
export function holdingVariables(): NodeJS.ProcessEnv | null {
  const file = process.platform === 'linux' ? addonFile() : null
  return file === null ? null : preloadedWith(file, handledSignals(), startedAs.env.LD_PRELOAD)
}

/** Blocks the signals that this process handles. Resolves when the handlers have run for those that came before. */
export async function holdHandledSignals(): Promise<Disposable> {
  holdSignals(handledSignals())
  // Between two immediates the loop asks for events once.
  await setImmediate()
  await setImmediate()
  return { [Symbol.dispose]: () => void releaseSignals() }
}

function handledSignals(): number {
  let mask = 0
  for (const [name, number] of Object.entries(constants.signals))
    if (number <= LAST_SIGNAL && process.listenerCount(name) > 0) mask |= 1 << (number - 1)
  return mask
}
