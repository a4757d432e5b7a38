import { defineConfig } from 'vitest/config'

/** For tools/test-native.mjs, which runs these tests under the sanitizers: each file in a process of its own. */
export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: ['test/native/*.test.ts'],
    pool: 'forks',
    maxWorkers: 1,
    fileParallelism: false,
    globalSetup: 'test/lanes/whole-run.ts',
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
