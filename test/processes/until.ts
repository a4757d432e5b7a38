import { GivenTime } from './given-time.js'

/**
 * Looks until `look` answers something; throws after `ms` of the machine's own time, with what `describe` says. Looks every 5 ms, and after
 * the first 200 ms every 20: the process that it waits for may need the processor.
 */
export async function until<T>(
  what: string,
  look: () => T | Promise<T>,
  ms = 10_000,
  describe: () => unknown = () => '',
): Promise<NonNullable<T>> {
  const time = new GivenTime()
  for (;;) {
    const found = await look()
    if (found !== undefined && found !== null && found !== false) return found as NonNullable<T>
    const passed = time.now()
    if (passed >= ms) {
      const facts = await describe()
      throw new Error(
        `not within ${ms} ms: ${what}\n${typeof facts === 'string' ? facts : JSON.stringify(facts, null, 1)}`,
      )
    }
    await pause(passed < 200 ? 5 : 20)
  }
}

/** For pacing only: never to wait for something. */
export function pause(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms))
}
