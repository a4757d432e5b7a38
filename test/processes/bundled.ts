import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildSync } from 'esbuild'
import { afterAll } from 'vitest'
import { addonFile } from '../../src/kernel/addon.js'

const files = new Map<string, string>()
let folder: string | undefined
afterAll(() => {
  if (folder !== undefined) rmSync(folder, { recursive: true })
  folder = undefined
  files.clear()
})

/** A bundle may contain packages that call `require`. */
const REQUIRE = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);"

/**
 * Bundles a program of test/fixtures, once for all tests of a file. Node.js starts the bundle several times as fast as it starts a program that tsx
 * loads. The process needs `env`: a bundle cannot find the addon by itself.
 */
export function bundled(fixture: string): { readonly file: string; readonly env: NodeJS.ProcessEnv } {
  folder ??= mkdtempSync(join(tmpdir(), 'fdb-bundled-'))
  let file = files.get(fixture)
  if (file === undefined) {
    file = join(folder, `${basename(fixture, '.ts')}.mjs`)
    buildSync({
      entryPoints: [fileURLToPath(new URL(`../fixtures/${fixture}`, import.meta.url))],
      outfile: file,
      bundle: true,
      format: 'esm',
      platform: 'node',
      target: 'node20',
      banner: { js: REQUIRE },
      logLevel: 'error',
    })
    files.set(fixture, file)
  }
  return { file, env: { ...process.env, FD_BROKER_ADDON: addonFile()! } }
}
