// @ts-check
// `node tools/error-docs.mjs` (after the build): makes docs/errors.md of the catalogue in tools/errors.
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { CATALOGUE } from './errors/catalogue.mjs'

const root = new URL('..', import.meta.url)
/** Where the table of what the HTTP/1 parser refuses is when it is built. */
const BUILT = 'build/modules/errors/http1-refusals.js'

/** Codes of the parser that say as much as their sentence. */
const TOLD_BY_NAME =
  /_(?:TARGET_TOO_LONG|HEAD_TOO_LARGE|FIELDS_TOO_MANY|HOST_MISSING|HOST_REPEATED|CODING_REPEATED|CODING_IN_HTTP10|CONNECT_WITH_BODY|TRAILERS_TOO_LARGE|VERSION_UNSUPPORTED|CHUNK_ENDING|BODY_FORBIDDEN|UPGRADE_INVALID)$/

const HEAD = `<!-- Made by tools/error-docs.mjs from tools/errors. -->
# Errors

An error is an \`FdbError\`, or a \`TypeError\` with the same fields for an argument of the wrong type. Each code has its cause, and in italics the remedy; the message has more.
\`FdbError.is(error)\` recognises both, also those of another copy of the package; \`FdbError.from(thrown)\` converts any value.

- \`code\` (type \`FdbErrorCode\`) is stable: decide by it.
- \`retryable\`: the same call may succeed later. \`phase\`: the phase of the handoff. \`details\`: facts for logs. \`cause\`: the error below it.
`

/**
 * The text of docs/errors.md.
 *
 * @param {Readonly<Record<string, readonly [status: number, why: string]>>} refusals by their code
 */
export function errorDocs(refusals) {
  const areas = Object.entries(CATALOGUE).map(([area, explanations]) => {
    const rows = Object.entries(explanations).map(
      ([code, { cause, remedy }]) => `- \`${code}\`: ${cause}. _${remedy}._`,
    )
    return `\n## ${area}\n\n${rows.join('\n')}\n`
  })
  const all = Object.entries(refusals)
  const told = all.filter(([code]) => !TOLD_BY_NAME.test(code))
  const named = all.filter(([code]) => TOLD_BY_NAME.test(code))
  return `${HEAD}${areas.join('')}
## HTTP/1 messages that the relay refuses

A message that two servers could read differently is not passed on: a request is answered with the status, an answer becomes a 502,
and the connection is closed.

${told.map(([code, [status, why]]) => `- \`${code}\` (${status}): ${why}`).join('\n')}
- by their names: ${named.map(([code, [status]]) => `\`${code}\` (${status})`).join(', ')}
`
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { REFUSALS, http1Code } = await import(new URL(BUILT, root).href)
  const byCode = Object.entries(REFUSALS).map(([reason, why]) => [http1Code(reason), why])
  writeFileSync(new URL('docs/errors.md', root), errorDocs(Object.fromEntries(byCode)))
}
