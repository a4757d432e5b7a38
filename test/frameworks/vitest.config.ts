import { defineConfig } from 'vitest/config'

/** `npm run test:frameworks`: the large ones too, which the whole suite leaves out. */
export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: ['test/frameworks/**/*.test.ts'],
    exclude: ['**/node_modules/**'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
  },
})
