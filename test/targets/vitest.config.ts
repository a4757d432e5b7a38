import { defineConfig } from 'vitest/config'

/** `npm run test:targets`: one after the other, as an emulated processor takes all of the machine. */
export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: ['test/targets/*.test.ts'],
    pool: 'forks',
    maxWorkers: 1,
    fileParallelism: false,
    testTimeout: 300_000,
    // Downloads, the first time.
    hookTimeout: 900_000,
  },
})
