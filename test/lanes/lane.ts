/**
 * The gate (`npm test`, `.ci/run`) or the nightly lane (`npm run nightly`), which does the same longer, with every kept release, and with the files
 * `*.long.test.ts` too.
 */
export const NIGHTLY = process.env.FD_BROKER_LANE === 'nightly'

/** One value for the gate, another for the night: repetitions, sizes, what each is tried with. */
export function perLane<T>(gate: T, nightly: T): T {
  return NIGHTLY ? nightly : gate
}

/**
 * Whether schedules and inputs are generated from fresh seeds. In CI they come from fixed ones, so that a commit has one verdict and a change is not
 * refused for what an earlier one did; a run at a desk and the nightly lane look further.
 */
export const FRESH = NIGHTLY || (process.env.CI ?? '') === ''
