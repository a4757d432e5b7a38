// @ts-check

/** A line of a report is not longer, where it can be broken. */
const WIDTH = 120

/** Entries whose declarations the later reports leave out. */
const FIRST = ['errors', 'operator', 'adapter', 'index']

/**
 * Reports whose changes are easy to see: one member of a long union a line; a declaration that an entry only comes to is left out
 * where an earlier report has it.
 * @param {Map<string, string>} reports by the entries' names
 * @returns {Map<string, string>}
 */
export function brief(reports) {
  const rank = (/** @type {string} */ name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length)
  /** @type {Set<string>} */
  const said = new Set()
  const kept = [...reports]
    .toSorted(([a], [b]) => rank(a) - rank(b))
    .map(([name, text]) => {
      const blocks = broken(undecorated(text)).split('\n\n')
      const own = blocks.filter(block => isExported(block) || !said.has(plain(block)))
      if (rank(name) < FIRST.length) for (const block of blocks) said.add(plain(block))
      return /** @type {const} */ ([name, own.join('\n\n')])
    })
  return new Map(kept)
}

/** @param {string} block */
const isExported = block =>
  !/^(?:declare |abstract )*(?:class|const|function|interface|namespace|type) /m.test(block)

/** @param {string} block */
const plain = block => block.replace(/^export /gm, '')

/** What is documented is told by the documentation. @param {string} text */
const undecorated = text =>
  text.replace(/^ *\/\/ \(undocumented\)\n/gm, '').replace(/^\/\/ @public.*\n/gm, '')

/** @param {string} text */
function broken(text) {
  return text.replace(/^.*(?: \| ).*$/gm, line =>
    line.length <= WIDTH ? line : line.replaceAll(' | ', '\n    | '),
  )
}
