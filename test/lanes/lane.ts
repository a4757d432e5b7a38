/**
 * The gate (`npm test`, `.ci/run`) or the nightly lane (`npm run nightly`), which does the same longer, with every kept release, and with the files
 * `*.long.test.ts` too.
 */
export const NIGHTLY = process.env.FD_BROKER_LANE === 'nightly'

/** One value for the gate, another for the night: repetitions, sizes, what each is tried with. */
export function perLane<T>(gate: T, nightly: T): T {
  return NIGHTLY ? nightly : gate
}
