import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { switchableHeader } from './native.js'

export const ROOT = fileURLToPath(new URL('../../', import.meta.url))
/** The parts of the project that tests need. */
const COPIED = ['src', 'test', 'bench', 'proto', 'tools', 'docs', 'native', '.ci', '.github']
const FILES = [
  'package.json',
  'binding.gyp',
  'README.md',
  'CHANGELOG.md',
  'LICENSE',
  'biome.json',
  'tsconfig.json',
  'vitest.config.ts',
]
const ADDON = 'build/Release'

/** Tells the runtime, before anything of the project is loaded, which test file runs; its processes inherit that. */
const SETUP = `import { expect } from 'vitest'
process.env.FDB_TEST_FILE = expect.getState().testPath.slice(process.cwd().length + 1)
`
/** Without the projects of the suite: here each file has a process of its own, as the mark of its file is in the environment. */
const CONFIG = `import base from './vitest.config.js'
const { projects, ...test } = base.test
const include = projects.flatMap(project => project.test.include)
const exclude = projects[0].test.exclude
const bail = Number(process.env.FDB_BAIL ?? 0)
export default { ...base, test: { ...test, include, exclude, setupFiles: ['./mutants-setup.ts'], bail } }
`

/** A copy of the project whose sources were changed, built: what tests load and what their processes run. */
export class Workspace {
  readonly folder = mkdtempSync(join(tmpdir(), 'fdb-mutants-'))

  /**
   * `change` gets the text of each source file by its path in the project, and the address of the runtime. Where C sources are among them
   * the workspace has an addon of its own.
   */
  constructor(files: Iterable<string>, change: (source: string, file: string, runtime: string) => string) {
    const { folder } = this
    // Tests start programs of it as another user.
    chmodSync(folder, 0o755)
    for (const name of [...COPIED, ...FILES])
      cpSync(join(ROOT, name), join(folder, name), { recursive: true, preserveTimestamps: true })
    mkdirSync(join(folder, 'build'))
    symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
    const all = [...files]
    const native = all.some(file => file.endsWith('.c'))
    if (native) {
      const header = join(folder, 'native/fdb.h')
      writeFileSync(header, switchableHeader(readFileSync(header, 'utf8')))
    } else symlinkSync(join(ROOT, ADDON), join(folder, ADDON))
    writeFileSync(join(folder, 'mutants-setup.ts'), SETUP)
    writeFileSync(join(folder, 'vitest.mutants.config.ts'), CONFIG)
    cpSync(new URL('runtime.mjs', import.meta.url), join(folder, 'mutants-runtime.mjs'))
    this.switch({})
    const runtime = join(folder, 'mutants-runtime.mjs')
    for (const file of all) {
      const path = join(folder, file)
      writeFileSync(path, change(readFileSync(path, 'utf8'), file, runtime))
    }
    if (native) this.#run('tools/build-native.mjs')
    // Types are of no interest here: only what is written.
    this.#run(join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', 'tsconfig.json', '--noCheck')
    // Bundled, the runtime would look for its orders beside the bundle.
    this.#run('tools/bundle.mjs', '--external', runtime)
  }

  #run(...command: string[]): void {
    execFileSync(process.execPath, command, { cwd: this.folder, stdio: 'inherit' })
  }

  /** For processes that are started from now on. */
  switch(to: { mutant?: number; notes?: string }): void {
    writeFileSync(join(this.folder, 'switch.json'), JSON.stringify(to))
  }

  close(): void {
    rmSync(this.folder, { recursive: true, force: true })
  }
}
