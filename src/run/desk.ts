import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { receiveHello, turnAway } from '../holder/admission.js'
import { serveCaller } from '../holder/serve-caller.js'
import type { OwnedFd, PeerCredentials } from '../kernel/index.js'
import type { Operations } from '../operator/requests.js'
import { VERSIONS } from '../wire/versions.js'

/** A connection that says nothing is not kept. */
const HELLO_MS = 5_000

/** Somebody has connected: an operator is served. Owns the descriptor. */
export function receive(fd: OwnedFd, who: PeerCredentials, operations: Operations, logger: Logger): void {
  const admission = { service: null, versions: VERSIONS, timeoutMs: HELLO_MS, logger }
  receiveHello(fd, who, admission, caller => {
    if (caller.intent !== 'operate') {
      const why = `process ${process.pid} supervises programs and hands nothing over itself: give join() a control path of its own, and fd-broker run --ready handoff:CONTROL`
      turnAway(caller, new FdbError('ERR_FDB_NOT_A_DAEMON', why))
      return
    }
    serveCaller(caller, operations)
  })
}
