// @ts-check
// `npm run build`: the addon, and beside it the protobuf code, the TypeScript, and of these what is published, with the manual page; each part is
// skipped by its own tool when it is up to date. Parts can be named: `node tools/build.mjs proto types`.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

/** @type {Record<string, string[][]>} */
const parts = {
  native: [['tools/build-native.mjs']],
  proto: [['tools/build-proto.mjs']],
  types: [['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json']],
  declarations: [['tools/declarations.mjs']],
  bundle: [['tools/bundle.mjs'], ['tools/man-page.mjs']],
}

const wanted = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(parts)
const unknown = wanted.find(name => !(name in parts))
if (unknown !== undefined) {
  console.error(`no such part: ${unknown}; there are ${Object.keys(parts).join(', ')}`)
  process.exit(2)
}

/** @param {string[]} names of parts that are built one after the other */
async function build(names) {
  for (const name of names) {
    for (const step of parts[name] ?? []) {
      const [exitCode, signal] = await once(
        spawn(process.execPath, step, { cwd: root, stdio: 'inherit' }),
        'exit',
      )
      if (exitCode === 0) continue
      console.error(`build: ${name} failed (${step[0]}: ${signal ?? `exit code ${exitCode}`})`)
      process.exitCode = 1
      return
    }
  }
}

await Promise.all([
  build(wanted.filter(name => name === 'native')),
  build(wanted.filter(name => name !== 'native')),
])
