import { defineConfig } from 'vitest/config'

/** `npm run test:frameworks`: the large ones too, which the whole suite leaves out. */
export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: ['test/frameworks/**/*.test.ts'],
    exclude: ['**/node_modules/**'],
    pool: 'forks',
    maxWorkers: 2,
    // For what hangs, as in the suite: the Next.js application, which is built, takes 14 s alone, and more than a minute at a load of 15.
    testTimeout: 180_000,
  },
})
