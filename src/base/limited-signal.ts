/**
 * Calls `work` with a signal that aborts with `signal`, or after `ms`. For work that is done again and again under one long-lived signal, at which
 * `AbortSignal.any()` of Node 20 leaves something each time.
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
  const timer = setTimeout(() => limited.abort(late), ms)
  try {
    return await work(limited.signal)
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', abort)
  }
}
