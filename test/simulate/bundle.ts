import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build, type Plugin } from 'esbuild'
import { OWN } from './own-state.js'
import { withSlots } from './source.js'

export const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** A change of `src`, to seed a defect. The file is below `src`. */
export type Edit = readonly [file: string, from: string, to: string]

/** The modules of the simulated processes and their operators. */
const ENTRIES = [
  'member/joining/join.ts',
  'member/joining/hung-incumbent.ts',
  'daemon/daemon.ts',
  'operator/client.ts',
  'kernel/index.ts',
  'cli/workers-main.ts',
  'cli/run-main.ts',
  'tls/ticket-keys.ts',
  'tls13/record-layer.ts',
]

export interface Bundle {
  readonly text: string
  /** The modules of `src` in it, below `src` and without their ending. */
  readonly modules: readonly string[]
}

/**
 * Bundles `src`, unchanged but for `edits`, except the loading of the addon. Module-level variables of one process have slots. SIMULATE_BUNDLE
 * names a file with the bundle without edits, which a process makes for others.
 */
export async function bundle(edits: readonly Edit[] = []): Promise<Bundle> {
  const made = process.env.SIMULATE_BUNDLE
  if (made !== undefined && edits.length === 0) return JSON.parse(readFileSync(made, 'utf8'))
  const entry = ENTRIES.map(file => `export * from './src/${file}'`).join('\n')
  const { outputFiles, metafile } = await build({
    absWorkingDir: ROOT,
    stdin: { contents: entry, resolveDir: ROOT, loader: 'ts' },
    plugins: [simulated(edits)],
    bundle: true,
    write: false,
    metafile: true,
    platform: 'node',
    target: 'node20',
    format: 'cjs',
    external: ['#*'],
    logLevel: 'error',
    sourcemap: 'inline',
    sourcesContent: false,
  })
  const inputs = Object.keys(metafile.inputs).filter(path => path.startsWith('src/'))
  return { text: outputFiles[0]!.text, modules: inputs.map(path => path.slice('src/'.length, -'.ts'.length)) }
}

function simulated(edits: readonly Edit[]): Plugin {
  return {
    name: 'simulated',
    setup({ onLoad, onResolve }) {
      // An optional dependency of protobufjs.
      onResolve({ filter: /^long$/ }, ({ path }) => ({ path, namespace: 'absent' }))
      onLoad({ filter: /./, namespace: 'absent' }, () => ({ contents: 'module.exports = undefined' }))
      onLoad({ filter: /src\/kernel\/addon\.ts$/ }, () => ({
        contents: 'export const loadAddon = () => __simulated.addon; export const addonFile = () => null',
      }))
      onLoad({ filter: /src\/.*\.ts$/ }, ({ path }) => {
        const file = relative(join(ROOT, 'src'), path)
        let contents = readFileSync(path, 'utf8')
        for (const [name, from, to] of edits) {
          if (name !== file) continue
          if (!contents.includes(from)) throw new Error(`src/${file} does not contain ${from}`)
          contents = contents.replace(from, () => to)
        }
        const own = OWN[file.slice(0, -'.ts'.length)]
        return { contents: own === undefined ? contents : withSlots(contents, own), loader: 'ts' }
      })
    },
  }
}

/** Loads a package as the project has it. */
export const requireHere = createRequire(join(ROOT, 'package.json'))
