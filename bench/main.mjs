// @ts-check
// npm run bench -- NAME [options]: runs bench/NAME/main.mjs.
import { existsSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const here = fileURLToPath(new URL('.', import.meta.url))
const names = readdirSync(here, { withFileTypes: true })
  .filter(
    entry => entry.isDirectory() && entry.name !== 'referee' && existsSync(`${here}${entry.name}/main.mjs`),
  )
  .map(entry => entry.name)
const [name, ...rest] = process.argv.slice(2)

if (name === undefined || !names.includes(name)) {
  console.error(`usage: npm run bench -- NAME [--json FILE]\nbenchmarks: ${names.join(', ')}`)
  process.exitCode = 2
} else {
  process.argv.splice(2, process.argv.length, ...rest)
  await import(`./${name}/main.mjs`)
}
