// @ts-check
// Turns every proto/NAME.proto into src/proto/NAME.js and NAME.d.ts, and copies them to where tsc writes once that is there
// (tsc emits neither). Does nothing for files that are up to date. Run it before and after tsc.
//
// 64-bit numbers are plain JavaScript numbers, exact up to 2^53: decoding a larger one throws. protobufjs'
// own --force-number only changes the types, at run time it still makes Long objects: so the generated code
// is adjusted, see proto/adjust.mjs. Only uint64 is supported; another 64-bit type fails the build. What all
// messages have in common is in src/proto/shared.js, a copy of proto/shared.mjs.
import { execFile } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { adjustCode, adjustTypes } from './proto/adjust.mjs'

const run = promisify(execFile)
const root = fileURLToPath(new URL('..', import.meta.url))
const sources = join(root, 'proto')
const generated = join(root, 'src/proto')
const modules = join(root, 'build/modules')
const pbjs = join(createRequire(import.meta.url).resolve('protobufjs-cli/package.json'), '../bin/pbjs')
const shared = join(root, 'tools/proto/shared.mjs')
const tools = [fileURLToPath(import.meta.url), join(root, 'tools/proto/adjust.mjs')]

/** @param {string} file */
const modified = file => (existsSync(file) ? statSync(file).mtimeMs : 0)

/** @param {string} name */
async function generate(name) {
  const source = join(sources, `${name}.proto`)
  const code = join(generated, `${name}.js`)
  const types = join(generated, `${name}.d.ts`)
  const newest = Math.max(modified(source), ...tools.map(modified))
  if (newest < modified(code) && newest < modified(types)) return
  const options = ['-t', 'static-module', '-w', 'esm', '--dts', '--force-number', '-p', sources]
  const leaveOut = ['--no-verify', '--no-convert', '--no-delimited', '--no-typeurl', '--no-service']
  await run(process.execPath, [pbjs, ...options, ...leaveOut, '-o', code, source])
  writeFileSync(code, adjustCode(readFileSync(code, 'utf8'), name))
  writeFileSync(types, adjustTypes(readFileSync(types, 'utf8')))
  console.log(`proto: ${basename(source)} -> src/proto/${name}.js`)
}

const names = existsSync(sources)
  ? readdirSync(sources)
      .filter(file => file.endsWith('.proto'))
      .map(file => file.slice(0, -'.proto'.length))
  : []
/** @param {string} from @param {string} to */
function copyIfNewer(from, to) {
  if (modified(to) < modified(from)) copyFileSync(from, to)
}

mkdirSync(generated, { recursive: true })
copyIfNewer(shared, join(generated, 'shared.js'))
await Promise.all(names.map(generate))

if (existsSync(modules)) {
  mkdirSync(join(modules, 'proto'), { recursive: true })
  for (const file of ['shared.js', ...names.flatMap(name => [`${name}.js`, `${name}.d.ts`])])
    copyIfNewer(join(generated, file), join(modules, 'proto', file))
}
