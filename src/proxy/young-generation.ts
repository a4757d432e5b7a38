import { setFlagsFromString } from 'node:v8'
import { changesFlags } from '../base/server-stage.js'
import { loadForListen } from '../node/server-connections.js'

const SMALL = '--semi-space-growth-factor=1'
const USUAL = '--semi-space-growth-factor=2'
let isSmall = false

/**
 * Keeps V8's young generation at its current size, in the whole process. With many clients it would grow to 32 MiB and stay there, although almost nothing
 * outlives a request. A process with 10,000 idle connections needs 94 MiB instead of 108, for the same CPU time.
 */
export function keepYoungGenerationSmall(): void {
  // Loads modules before the flags change: afterwards V8 rejects Node's compiled built-ins, and loading takes three times as long.
  loadForListen()
  isSmall = true
  changesFlags(withUsualFlags)
  setFlagsFromString(SMALL)
}

/** Runs `work` with the flags of a starting process: V8 accepts cached code only under the flags it was compiled with. */
function withUsualFlags<T>(work: () => T): T {
  if (!isSmall) return work()
  setFlagsFromString(USUAL)
  try {
    return work()
  } finally {
    setFlagsFromString(SMALL)
  }
}
