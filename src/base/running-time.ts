/** The number of turns of the event loop that a limit lasts at least. */
const STEPS = 10

/**
 * Settles as `work` does, but rejects with the error of `late` when the event loop has run for `ms`. A time in which this process was stopped (SIGSTOP), or in which
 * one turn was long, counts as a tenth of that at most: work that needs several turns must not count as late before it could go on.
 */
export async function withinRunningTime<T>(work: Promise<T>, ms: number, late: () => Error): Promise<T> {
  let left = STEPS
  let timer: NodeJS.Timeout | undefined
  const limit = new Promise<never>((_, reject) => {
    timer = setInterval(() => {
      if (--left === 0) reject(late())
    }, ms / STEPS)
  })
  try {
    return await Promise.race([work, limit])
  } finally {
    clearInterval(timer)
  }
}
