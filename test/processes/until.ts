/** Looks every few milliseconds until `look` answers something; throws after `ms`, with what `describe` says. */
export async function until<T>(
  what: string,
  look: () => T | Promise<T>,
  ms = 10_000,
  describe: () => unknown = () => '',
): Promise<NonNullable<T>> {
  const give = performance.now() + ms
  for (;;) {
    const found = await look()
    if (found !== undefined && found !== null && found !== false) return found as NonNullable<T>
    if (performance.now() >= give) {
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
