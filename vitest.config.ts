import { fileURLToPath } from 'node:url'
import { defineConfig, type TestProjectInlineConfiguration } from 'vitest/config'
import { compileSources } from './test/lanes/compiled-sources.js'
import { NIGHTLY } from './test/lanes/lane.js'
import { Order } from './test/lanes/order.js'
import { ownProcess, replacingModules } from './test/lanes/own-process.js'

const REPLACING_MODULES = replacingModules(import.meta.dirname)
const OWN_PROCESS = ownProcess(import.meta.dirname)

/** For tests, and for processes that they start (test/processes/compiled.ts). */
const SOURCES = compileSources(import.meta.dirname)

/** Tests of a run that ends find the sources compiled; a run that watches has to see them change. */
const COMPILED = process.argv.includes('run')
  ? { find: /^(?:\.\.\/)+src\/(.*\.js)$/, replacement: `${SOURCES}/$1` }
  : null

/** For files that have a process of their own; at night each file has one. */
const LEAVES_NOTHING = ['./test/lanes/remainder.ts']

function project(
  name: string,
  test: TestProjectInlineConfiguration['test'],
  alias = COMPILED === null ? [] : [COMPILED],
): TestProjectInlineConfiguration {
  const exclude = [...(test?.exclude ?? []), ...(NIGHTLY ? [] : ['**/*.long.test.ts'])]
  return { extends: true, resolve: { alias }, test: { ...test, name, exclude } }
}

/**
 * Tests import the sources by relative path; the processes that end-to-end tests start import the package by
 * its own name, `fd-broker`, which Node resolves to dist/. So: build first (npm install does).
 */
export default defineConfig({
  resolve: {
    alias: [
      ['fd-broker', 'index'],
      ['fd-broker/proxy', 'proxy'],
      ['fd-broker/sources', 'sources'],
      ['fd-broker/adapter', 'adapter'],
      ['fd-broker/operator', 'operator'],
      ['fd-broker/errors', 'errors'],
    ].map(([name, file]) => ({
      find: new RegExp(`^${name}$`),
      replacement: fileURLToPath(new URL(`dist/${file}.js`, import.meta.url)),
    })),
  },
  test: {
    projects: [
      project('replaces modules', { include: REPLACING_MODULES, setupFiles: LEAVES_NOTHING }, []),
      project('own process', {
        include: OWN_PROCESS,
        exclude: REPLACING_MODULES,
        setupFiles: LEAVES_NOTHING,
      }),
      // In the gate, files one after the other in a process. To load the same modules for each took two fifths of the unit tests' processor time.
      project('shared', {
        include: ['test/{unit,property,e2e,exploration}/**/*.test.ts'],
        exclude: [...REPLACING_MODULES, ...OWN_PROCESS],
        isolate: NIGHTLY,
        setupFiles: NIGHTLY ? LEAVES_NOTHING : [],
      }),
    ],
    pool: 'forks',
    // Node loads these itself.
    server: { deps: { external: [/\/build\/src\//] } },
    globalSetup: './test/lanes/whole-run.ts',
    sequence: { sequencer: Order },
    // Files at a time. Most end-to-end tests wait for processes: four use two processors for four fifths of the time.
    maxWorkers: 5,
    // For what hangs, not for what is slow: others may have nine tenths of a virtual machine's processors for minutes.
    testTimeout: 180_000,
    hookTimeout: 180_000,
    teardownTimeout: 5_000,
    // For the same reason; vitest's own limit is a second.
    expect: { poll: { timeout: 20_000 } },
    // For the reasons of what is left out.
    includeTaskLocation: true,
    reporters: ['default', './test/lanes/left-out.ts'],
  },
})
