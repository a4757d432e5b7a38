import type { Operations } from '../operator/requests.js'
import { serveOperator } from '../operator/server.js'
import type { fdbroker } from '../proto/wire.js'
import { type Caller, welcome } from './admission.js'

/** Serves a caller who came to operate, until it leaves. `facts`: what its Welcome says of the process that serves it. `idleMs`: as {@link serveOperator}. Takes it. */
export function serveCaller(
  { link, pidfd, version }: Caller,
  operations: Operations,
  facts: Partial<fdbroker.wire.Welcome.$Properties> = {},
  idleMs: number | null = null,
): void {
  pidfd?.close()
  welcome(link, { version, pid: process.pid, ...facts })
  serveOperator(link, operations, idleMs)
}
