// @ts-check
// npm run bench -- NAME [options]: runs bench/NAME/main.mjs. With --help: prints the comment at the top of that file, which lists the options.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
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
} else if (rest.includes('--help')) {
  const part = `${here}${name}/${rest[0]}.mjs`
  const lines = readFileSync(existsSync(part) ? part : `${here}${name}/main.mjs`, 'utf8').split('\n')
  const end = lines.findIndex((line, index) => index > 0 && !line.startsWith('//'))
  console.log(
    lines
      .slice(1, end)
      .map(line => line.replace(/^\/\/ ?/, ''))
      .join('\n'),
  )
} else {
  process.argv.splice(2, process.argv.length, ...rest)
  await import(`./${name}/main.mjs`)
}
