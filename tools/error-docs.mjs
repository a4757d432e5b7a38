// @ts-check
// `npm run error-docs` (after the build): generates docs/errors.md from the catalogue in tools/errors.
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { CATALOGUE } from './errors/catalogue.mjs'

const root = new URL('..', import.meta.url)
/** The built module with the messages that the HTTP/1 parser refuses. */
const BUILT = 'build/modules/errors/http1-refusals.js'

/** Codes of the HTTP/1 parser whose names need an explanation. The page only lists the others. */
const EXPLAINED =
  /_(?:TARGET_INVALID|FIELD_FOLDED|FIELD_LOOKALIKE|CODING_INVALID|CONNECTION_INVALID|SWITCH_UNASKED|CHUNK_EXTENSION|TRAILER_FORBIDDEN)$/

const HEAD = `<!-- Made by tools/error-docs.mjs from tools/errors. -->
# Errors

fd-broker throws \`FdbError\`s, and for an argument of the wrong type a \`TypeError\` with the same fields. This page has the cause of each code and, in italics, the remedy; the error's message has the details.
\`FdbError.is(error)\` recognises both, also from another copy of the package; \`FdbError.from(thrown)\` converts any value.

- \`code\` (type \`FdbErrorCode\`) is stable: use it in your program.
- \`retryable\`: the same call may succeed later. \`phase\`: the phase of the handoff. \`details\`: facts for logs. \`cause\`: the original error.
`

/**
 * Returns the text of docs/errors.md.
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
  const explained = all.filter(([code]) => EXPLAINED.test(code))
  const named = all.filter(([code]) => !EXPLAINED.test(code))
  return `${HEAD}${areas.join('')}
## HTTP/1 messages that the relay refuses

The proxy does not pass on a message that two servers could read differently. It answers such a request with the status in brackets; if a server's answer is such a message, the client gets a 502. Then the proxy closes the connection. The error's message has the reason.

${explained.map(([code, [status, why]]) => `- \`${code}\` (${status}): ${why}`).join('\n')}

Others, by status:

${byStatus(named)}
`
}

/** @param {readonly (readonly [code: string, refusal: readonly [status: number, why: string]])[]} refusals */
function byStatus(refusals) {
  const statuses = [...new Set(refusals.map(([, [status]]) => status))].sort()
  const codes = statuses.map(each =>
    refusals.filter(([, [status]]) => status === each).map(([code]) => `\`${code}\``),
  )
  return statuses.map((status, i) => `- ${status}: ${codes[i]?.join(', ')}`).join('\n')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { REFUSALS, http1Code } = await import(new URL(BUILT, root).href)
  const byCode = Object.entries(REFUSALS).map(([reason, why]) => [http1Code(reason), why])
  writeFileSync(new URL('docs/errors.md', root), errorDocs(Object.fromEntries(byCode)))
}
