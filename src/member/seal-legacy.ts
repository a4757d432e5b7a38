import { FdbError } from '../errors.js'
import type { NativeError } from '../kernel/index.js'
import type { Segment } from '../state/segment.js'

/**
 * Seals what a process wrote that has ended, or is about to. A descriptor that is read-only cannot seal, and needs not: who has the other
 * one is that process. Any other refusal is `refused`'s to tell: nothing is lost by it, as what is written until the end is read.
 */
export function sealLegacy(segments: readonly Segment[], refused: (error: FdbError) => void): void {
  for (const segment of segments) {
    try {
      segment.seal()
    } catch (error) {
      if (!(error instanceof FdbError)) throw error
      if ((error.cause as NativeError).code !== 'EPERM') refused(error)
    }
  }
}
