// @ts-check
// `npm run build`: builds the addon, and in parallel, one after the other, the protobuf code, the TypeScript modules, the declarations, and
// dist/ with the manual page. Builds only the given parts if there are any: `node tools/build.mjs proto types`.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

/** The scripts of each part, with their arguments. @type {Record<string, string[][]>} */
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

/** Builds the parts one after the other, up to the first failure. @param {string[]} names */
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
