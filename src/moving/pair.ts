import { OwnedFd } from '../fd/owned.js'
import { native } from '../native.js'
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
  let ends: [number, number]
  try {
    ends = native.socketPair()
  } catch (error) {
    log.close()
    throw error
  }
  const [give, take] = ends.map(raw => OwnedFd.own(raw, 'move channel')) as [OwnedFd, OwnedFd]
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
