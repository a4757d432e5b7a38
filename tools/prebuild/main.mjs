// @ts-check
// `npm run prebuilds [-- [--into FOLDER] TARGET...]`: builds the addon for the given targets (default: all of targets.mjs) into prebuilds/. The
// same sources give the same bytes. (The script is not named `prebuild`, because npm would run that before each `build`.)
import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { compile, fetchHeaders, fetchZig } from './compiler.mjs'
import { compilerArguments } from './flags.mjs'
import { TARGETS } from './targets.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))

/**
 * @param {string} into
 * @param {readonly string[]} names of targets; if empty, all
 * @param {string} folder for unfinished files
 */
function prebuild(into, names, folder) {
  const wanted = names.length === 0 ? TARGETS : TARGETS.filter(target => names.includes(target.name))
  const unknown = names.filter(name => !TARGETS.some(target => target.name === name))
  if (unknown.length > 0)
    throw new Error(`no such target: ${unknown}; there are ${TARGETS.map(target => target.name).join(', ')}`)
  const zig = fetchZig()
  const headers = fetchHeaders()
  for (const target of wanted) {
    const start = performance.now()
    // A Mach-O file contains the name of the output, but not its folder.
    const unfinished = join(folder, basename(target.file))
    compile(zig, compilerArguments(root, target, headers, unfinished), root)
    const file = join(into, target.file)
    mkdirSync(dirname(file), { recursive: true })
    copyFileSync(unfinished, `${file}.${process.pid}`)
    renameSync(`${file}.${process.pid}`, file)
    const bytes = readFileSync(file)
    const hash = createHash('sha256').update(bytes).digest('hex')
    console.log(`${hash}  ${target.file} ${bytes.length} bytes, ${Math.round(performance.now() - start)} ms`)
  }
}

try {
  const { values, positionals } = parseArgs({
    options: { into: { type: 'string', default: join(root, 'prebuilds') } },
    allowPositionals: true,
  })
  const folder = mkdtempSync(join(tmpdir(), 'fdb-prebuilds-'))
  try {
    prebuild(resolve(values.into), positionals, folder)
  } finally {
    rmSync(folder, { recursive: true })
  }
} catch (error) {
  console.error(`prebuilds: ${error instanceof Error ? error.message : error}`)
  process.exitCode = 1
}
