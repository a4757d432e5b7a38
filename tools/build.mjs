// @ts-check
// `npm run build`: the addon, the protobuf code, the TypeScript, and of these what is published, with the manual page; each part is skipped by its
// own tool when it is up to date. Parts can be named: `node tools/build.mjs proto types`.
import { spawnSync } from 'node:child_process'
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
for (const name of wanted) {
  const steps = parts[name]
  if (!steps) {
    console.error(`no such part: ${name}; there are ${Object.keys(parts).join(', ')}`)
    process.exit(2)
  }
  for (const step of steps) {
    const { status, signal } = spawnSync(process.execPath, step, { cwd: root, stdio: 'inherit' })
    if (status !== 0) {
      console.error(`build: ${name} failed (${step[0]}: ${signal ?? `exit code ${status}`})`)
      process.exit(1)
    }
  }
}
