import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'
import { NIGHTLY } from './test/lanes/lane.js'

/**
 * Tests import the sources by relative path; the processes that end-to-end tests start import the package by
 * its own name, `fd-broker`, which Node resolves to dist/. So: build first (npm install does).
 */
export default defineConfig({
  resolve: {
    alias: [
      ['fd-broker', 'index'],
      ['fd-broker/proxy', 'proxy'],
      ['fd-broker/adapter', 'adapter'],
      ['fd-broker/errors', 'errors'],
    ].map(([name, file]) => ({
      find: new RegExp(`^${name}$`),
      replacement: fileURLToPath(new URL(`dist/${file}.js`, import.meta.url)),
    })),
  },
  test: {
    include: ['test/{unit,property,native,e2e,exploration}/**/*.test.ts'],
    exclude: NIGHTLY ? [] : ['**/*.long.test.ts'],
    pool: 'forks',
    // At night only, until each file of its list is mended and its cost is known.
    setupFiles: NIGHTLY ? ['./test/lanes/remainder.ts'] : [],
    // Files at a time: most end-to-end tests wait for processes, and one more would measure the machine.
    maxWorkers: availableParallelism() < 4 ? 2 : 3,
    // For what hangs, not for what is slow: others may have nine tenths of a virtual machine's processors for minutes.
    testTimeout: 180_000,
    hookTimeout: 180_000,
    teardownTimeout: 5_000,
    execArgv: ['--expose-gc'],
    // For the reasons of what is left out.
    includeTaskLocation: true,
    reporters: ['default', './test/lanes/left-out.ts'],
  },
})
