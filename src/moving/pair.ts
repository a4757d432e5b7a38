import { type OwnedFd, socketPair } from '../kernel/index.js'
import { MoveLog } from './move-log.js'

/** Which end of a move channel a descriptor is: in the `spec` of its item. */
export const GIVE = 'give'
export const TAKE = 'take'

/** A way for connections from one process to another: both ends, and the log that both hold. Owned by the caller. */
export interface MovePair extends Disposable {
  readonly give: OwnedFd
  readonly take: OwnedFd
  readonly log: MoveLog
}

/** Throws where there are no memory files that can be sealed, or no descriptors left. */
export function movePair(): MovePair {
  const log = MoveLog.create()
  let ends: [OwnedFd, OwnedFd]
  try {
    ends = socketPair('move channel')
  } catch (error) {
    log.close()
    throw error
  }
  const [give, take] = ends
  return {
    give,
    take,
    log,
    [Symbol.dispose]() {
      give.close()
      take.close()
      log.close()
    },
  }
}
