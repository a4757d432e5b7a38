// @ts-check
// `npm run default-docs` (after the build): generates docs/times.md from src/base/default-times.ts.
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = new URL('..', import.meta.url)
const COLUMNS = /** @type {const} */ (['join', 'daemon', 'auto', 'run', 'workers', 'proxy'])

/**
 * Returns the text of docs/times.md.
 *
 * @template {string} T
 * @param {Readonly<Record<T, { readonly about: string } & { readonly [column in (typeof COLUMNS)[number]]?: string }>>} times
 * @param {(time: T) => string} defaultText
 */
export function defaultDocs(times, defaultText) {
  const rows = /** @type {T[]} */ (Object.keys(times)).map(name => {
    const time = times[name]
    const names = COLUMNS.map(column => (time[column] === undefined ? '' : `\`${time[column]}\``))
    return `| ${[time.about, defaultText(name), ...names].join(' | ')} |`
  })
  return `<!-- Made by tools/default-docs.mjs from src/base/default-times.ts. -->
# Times and their defaults

\`join()\` and \`serveDaemon()\` take milliseconds. Variables, options and the proxy's configuration take a number with its unit: \`500ms\`, \`30s\`, \`2m\`, \`1h\`.

| Time | Default | [\`join()\`](api.md) | [\`serveDaemon()\`](daemon.md) | [auto](auto.md) | [run](run.md) | [workers](workers.md) | [proxy](proxy-config.md) |
|---|---|---|---|---|---|---|---|
${rows.join('\n')}

The limits of \`serveDaemon()\` are for members that do not give their own.
`
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { DEFAULT_TIMES, defaultText } = await import(
    new URL('build/modules/base/default-times.js', root).href
  )
  writeFileSync(new URL('docs/times.md', root), defaultDocs(DEFAULT_TIMES, defaultText))
}
