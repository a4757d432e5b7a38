// @ts-check

/** Longer lines of a report are broken at the members of a union. */
const WIDTH = 120

/** Entries with the first reports; later reports leave out declarations that these have. */
const FIRST = ['errors', 'operator', 'adapter', 'index']

/**
 * Returns the reports in a form whose diffs are easy to read: each member of a long union is on its own line, and a report leaves out a
 * declaration that its entry does not export if an earlier report has it.
 * @param {Map<string, string>} reports by the entries' names
 * @returns {Map<string, string>}
 */
export function brief(reports) {
  const rank = (/** @type {string} */ name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length)
  /** @type {Set<string>} */
  const reported = new Set()
  const kept = [...reports]
    .toSorted(([a], [b]) => rank(a) - rank(b))
    .map(([name, text]) => {
      const blocks = broken(undecorated(text)).split('\n\n')
      const own = blocks.filter(block => isExported(block) || !reported.has(plain(block)))
      if (rank(name) < FIRST.length) for (const block of blocks) reported.add(plain(block))
      return /** @type {const} */ ([name, own.join('\n\n')])
    })
  return new Map(kept)
}

/** @param {string} block */
const isExported = block =>
  !/^(?:declare |abstract )*(?:class|const|function|interface|namespace|type) /m.test(block)

/** @param {string} block */
const plain = block => block.replace(/^export /gm, '')

/** Removes the marks of undocumented and of public declarations. @param {string} text */
const undecorated = text =>
  text.replace(/^ *\/\/ \(undocumented\)\n/gm, '').replace(/^\/\/ @public.*\n/gm, '')

/** @param {string} text */
function broken(text) {
  return text.replace(/^.*(?: \| ).*$/gm, line =>
    line.length <= WIDTH ? line : line.replaceAll(' | ', '\n    | '),
  )
}
