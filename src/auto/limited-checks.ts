import { afterReading } from '../base/after-reading.js'
import { DEFAULT_TIMES } from '../base/default-times.js'
import { type Check, FdbError } from '../index.js'

/** The previous version's own limit, whose error is the better one, must elapse first. */
const LIMIT_FIRST_MS = 2_000

/**
 * Limits the checks of a next version together. The previous version, which has the limit of an upgrade, may die: this version would then hold the
 * addresses without serving them, and no other version could join. A limit of 0 is none.
 */
export function limitedTogether(
  checks: readonly Check[],
  readyMs: number = DEFAULT_TIMES.ready.ms,
): readonly Check[] {
  if (readyMs === 0) return checks
  const until = performance.now() + readyMs + LIMIT_FIRST_MS
  return checks.map(check => async context => {
    let limit: ReturnType<typeof afterReading> | undefined
    const late = new Promise<never>((_resolve, reject) => {
      const ms = Math.max(1, until - performance.now())
      // A program that ends by itself before it serves must not wait for the limit.
      limit = afterReading(ms, () => reject(lateError(readyMs)), { unref: true })
    })
    try {
      return await Promise.race([check(context), late])
    } finally {
      limit?.clear()
    }
  })
}

function lateError(readyMs: number): FdbError {
  return new FdbError(
    'ERR_FDB_DEADLINE',
    `process ${process.pid} was not ready within ${readyMs} ms, and the previous version has ended: start the program again; raise FD_BROKER_READY_TIMEOUT if it is only slow`,
  )
}
