import { afterReading } from './after-reading.js'

/**
 * Calls `work` with a signal that aborts with `signal`, or after `ms`, but first lets the event loop read everything that has arrived: after a SIGSTOP of this
 * process an answer in time must not count as late. For work that is done again and again under one long-lived signal, at which `AbortSignal.any()` of Node 20
 * leaves something each time.
 */
export async function withinLimit<T>(
  signal: AbortSignal,
  ms: number,
  work: (limited: AbortSignal) => Promise<T>,
): Promise<T> {
  const limited = new AbortController()
  const abort = () => limited.abort(signal.reason)
  if (signal.aborted) abort()
  signal.addEventListener('abort', abort)
  const late = new DOMException(`no end within ${ms} ms`, 'TimeoutError')
  let told: NodeJS.Immediate | undefined
  const limit = afterReading(ms, () => {
    // The end of a stream is told one turn after it was read.
    told = setImmediate(() => limited.abort(late))
  })
  try {
    return await work(limited.signal)
  } finally {
    limit.clear()
    clearImmediate(told)
    signal.removeEventListener('abort', abort)
  }
}
