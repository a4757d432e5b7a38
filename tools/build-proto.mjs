// @ts-check
// Turns every proto/NAME.proto into src/proto/NAME.js and NAME.d.ts, and copies them to where tsc writes once that is there
// (tsc emits neither). Does nothing for files that are up to date. Run it before and after tsc.
//
// 64-bit numbers are plain JavaScript numbers, exact up to 2^53: decoding a larger one throws. protobufjs'
// own --force-number only changes the types, at run time it still makes Long objects: so the generated code
// is adjusted here. Only uint64 is supported; another 64-bit type fails the build.
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

const run = promisify(execFile)
const root = fileURLToPath(new URL('..', import.meta.url))
const sources = join(root, 'proto')
const generated = join(root, 'src/proto')
const modules = join(root, 'build/modules')
const pbjs = join(createRequire(import.meta.url).resolve('protobufjs-cli/package.json'), '../bin/pbjs')

const READ_UINT64 = `
// A varint as a number: exact up to 2^53 - 1, a RangeError above.
function $uint64(reader) {
    let value = 0, factor = 1, byte;
    do {
        if (reader.pos >= reader.len) throw $RangeError("index out of range: " + reader.pos + " + 1 > " + reader.len);
        byte = reader.buf[reader.pos++];
        value += (byte & 127) * factor;
        factor *= 128;
        if (value > 9007199254740991) throw $RangeError("uint64 above 2^53 - 1 is not supported");
    } while (byte > 127 && factor <= 72057594037927936);
    if (byte > 127) throw $RangeError("uint64 of more than 9 bytes is not supported");
    return value;
}
`

/** @param {string} file */
const modified = file => (existsSync(file) ? statSync(file).mtimeMs : 0)

/**
 * @param {string} code
 * @param {string} name
 */
function adjustCode(code, name) {
  const adjusted = code
    // A root of its own for each file: the shared one would let two packages, or two copies of this one, overwrite
    // each other's messages.
    .replace(/const \$root = .*;/, 'const $root = {};')
    .replace('// Exported root namespace', `${READ_UINT64}\n// Exported root namespace`)
    .replaceAll('$util.Long ? $util.Long.fromBits(0,0,true) : 0', '0')
    .replaceAll('reader.uint64()', '$uint64(reader)')
  const left = /reader\.(u?int64s?|sint64s?|s?fixed64s?)\(|\$util\.Long/.exec(adjusted)
  if (left) {
    throw new Error(
      `proto/${name}.proto: "${left[0]}" — of the 64-bit types only single uint64 fields are supported`,
    )
  }
  return adjusted
}

/**
 * Fields may be given as undefined, which encode() takes for absent (matters under exactOptionalPropertyTypes).
 * @param {string} types
 */
function adjustTypes(types) {
  return types.replace(/^import Long = .*\n/m, '').replace(/\|null\);/g, '|null|undefined);')
}

/** @param {string} name */
async function generate(name) {
  const source = join(sources, `${name}.proto`)
  const code = join(generated, `${name}.js`)
  const types = join(generated, `${name}.d.ts`)
  const newest = Math.max(modified(source), modified(fileURLToPath(import.meta.url)))
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
mkdirSync(generated, { recursive: true })
await Promise.all(names.map(generate))

if (existsSync(modules)) {
  mkdirSync(join(modules, 'proto'), { recursive: true })
  for (const file of names.flatMap(name => [`${name}.js`, `${name}.d.ts`])) {
    const to = join(modules, 'proto', file)
    if (modified(to) < modified(join(generated, file))) copyFileSync(join(generated, file), to)
  }
}
