import { GivenTime } from './given-time.js'

/** Looks every few milliseconds until `look` answers something; throws after `ms` of the machine's own time, with what `describe` says. */
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
    if (time.now() >= ms) {
      const facts = await describe()
      throw new Error(
        `not within ${ms} ms: ${what}\n${typeof facts === 'string' ? facts : JSON.stringify(facts, null, 1)}`,
      )
    }
    await pause(5)
  }
}

/** For pacing only: never to wait for something. */
export function pause(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms))
}
