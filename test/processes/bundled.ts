import { execFileSync } from 'node:child_process'
import { existsSync, renameSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { addonFile, requireAddon } from '../../src/kernel/index.js'

/** Returns a file that `make` makes once for all test files of a run. test/lanes/whole-run.ts removes it. */
export function shared(name: string, make: (file: string) => void): string {
  const file = join(process.env.FDB_TEST_SHARED!, name)
  if (!existsSync(file)) {
    // Two processes can make the file at the same time. The other one must not find half of it.
    const own = `${file}.${process.pid}`
    make(own)
    renameSync(own, file)
  }
  return file
}

/** The program, as esbuild's library would keep a process until the end of this one. */
const ESBUILD = fileURLToPath(new URL('../../node_modules/.bin/esbuild', import.meta.url))
/** A bundle may contain packages that call `require`. */
const REQUIRE = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);"
const OPTIONS = [
  '--bundle',
  '--format=esm',
  '--platform=node',
  '--target=node20',
  // The runtime of test/mutants looks for its orders beside its own file.
  '--external:*/mutants-runtime.mjs',
  `--banner:js=${REQUIRE}`,
  '--log-level=error',
]

/**
 * Bundles a program of test/fixtures. Node.js starts the bundle several times as fast as it starts a program that tsx
 * loads. The process needs `env`: a bundle cannot find the addon by itself.
 */
export function bundled(fixture: string): { readonly file: string; readonly env: NodeJS.ProcessEnv } {
  const file = shared(`${basename(fixture, '.ts')}.mjs`, outfile => {
    const program = fileURLToPath(new URL(`../fixtures/${fixture}`, import.meta.url))
    execFileSync(ESBUILD, [program, `--outfile=${outfile}`, ...OPTIONS])
  })
  requireAddon()
  return { file, env: { ...process.env, FD_BROKER_ADDON: addonFile()! } }
}
