import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildSync } from 'esbuild'
import { addonFile } from '../../src/kernel/addon.js'

let folder: string | undefined
const files = new Map<string, string>()

/** Returns a file that `make` makes for all test files of this process. The run removes it at its end. */
export function shared(name: string, make: (file: string) => void): string {
  folder ??= mkdtempSync(join(tmpdir(), 'fdb-shared-'))
  let file = files.get(name)
  if (file === undefined) {
    file = join(folder, name)
    make(file)
    files.set(name, file)
  }
  return file
}

/** A bundle may contain packages that call `require`. */
const REQUIRE = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);"

/**
 * Bundles a program of test/fixtures. Node.js starts the bundle several times as fast as it starts a program that tsx
 * loads. The process needs `env`: a bundle cannot find the addon by itself.
 */
export function bundled(fixture: string): { readonly file: string; readonly env: NodeJS.ProcessEnv } {
  const file = shared(`${basename(fixture, '.ts')}.mjs`, outfile => {
    buildSync({
      entryPoints: [fileURLToPath(new URL(`../fixtures/${fixture}`, import.meta.url))],
      outfile,
      bundle: true,
      format: 'esm',
      platform: 'node',
      target: 'node20',
      banner: { js: REQUIRE },
      logLevel: 'error',
    })
  })
  return { file, env: { ...process.env, FD_BROKER_ADDON: addonFile()! } }
}
